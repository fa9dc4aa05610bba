"""Continual ImageNet (Dohare et al., Nature 632, 2024): tell two classes apart, then two others, and so on.

Every task is a fresh pair for the same network, whose head alone is zeroed. A network that stays plastic is as good at
the thousandth pair as at the first. Without ImageNet, Fashion-MNIST's ten classes stand in.
"""
