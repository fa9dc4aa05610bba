"""Continual ImageNet (Dohare et al., Nature 632, 2024): classify two classes, then two others, and so on.

Each task is a new pair of classes for the same network, of which only the head is reset to zero. A network that keeps
its plasticity does as well on the thousandth pair as on the first. Without ImageNet, Fashion-MNIST's ten classes are
used.
"""
