"""Shared parts of the Stable-Baselines3 tests: settings, example inputs, the engine of a model."""

from __future__ import annotations

import torch

SETTINGS = {"eps": 1e-5, "replacement_rate": 0.05, "maturity_threshold": 3, "decay_rate": 0.9}


def example_input(space):
    return torch.as_tensor(space.sample())[None]


def engine_of(model):
    return model.policy.optimizer.gnt
