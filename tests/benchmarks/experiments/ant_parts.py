"""What the tests of slippery ant share: small settings, environments, and saving by a real file."""

from __future__ import annotations

import io

import numpy as np
import torch

from benchmarks.slippery_ant.environment import SlipperyAnt
from benchmarks.slippery_ant.settings import Settings

SMALL = {
    "lr": 1e-3,
    "rollout": 64,
    "epochs": 2,
    "probe": 100,
    "width": 12,
    "replacement_rate": 0.01,
    "maturity_threshold": 20,
    "decay_rate": 0.9,
}


def small(method="continual_backprop", **changed):
    """Settings of an agent that learns in a moment."""
    return Settings.of(method, **{**SMALL, **changed})


def ant(change_every=40, seed=3, **options):
    """An ant on ground that soon changes."""
    return SlipperyAnt([0.5, 0.02, 2.0, 0.1], change_every, seed, **options)


def actions(count, seed=0):
    """What a random policy does."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, 8)).astype(np.float32)


def through_a_file(state):
    """The state as a checkpoint gives it back."""
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)
