"""Adapters for trainers and for code written against other packages, each imported only on request.

avalanche           a plugin for strategies
huggingface         callbacks and a mixin for the Trainer of transformers
lightning           callbacks for PyTorch Lightning
loss_of_plasticity  learners and layers of the loss-of-plasticity repository, with its arguments and defaults
stable_baselines3   optimizers that policies construct, and a callback
torchrl             the units of loss modules
"""
