"""Shared parts of the Stable-Baselines3 tests: settings, policy arguments, the engine of a model."""

from __future__ import annotations

from gnt.integrations.stable_baselines3 import CBPAdam

SETTINGS = {"eps": 1e-5, "replacement_rate": 0.05, "maturity_threshold": 3, "decay_rate": 0.9}


def found_by_the_policy(optimizer=CBPAdam, settings=SETTINGS, **kwargs):
    """Arguments for a policy whose optimizer finds the units."""
    return {"optimizer_class": optimizer, "optimizer_kwargs": dict(settings), **kwargs}


def engine_of(model):
    return model.policy.optimizer.gnt
