"""Shared by the tests of slippery ant: small settings and environments."""

from __future__ import annotations

import numpy as np

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
    """Settings of an agent that trains in moments."""
    return Settings.of(method, **{**SMALL, **changed})


def ant(change_every=40, seed=3, **options):
    """An ant with frequent changes of friction."""
    return SlipperyAnt([0.5, 0.02, 2.0, 0.1], change_every, seed, **options)


def actions(count, seed=0):
    """Actions of a random policy."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, 8)).astype(np.float32)
