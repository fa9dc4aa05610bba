"""Which of the frameworks that are not in the test extra are installed."""

from __future__ import annotations

import importlib.util

FRAMEWORKS = ("avalanche", "fastai", "ignite", "optuna", "ray", "skorch", "torchrl")


def is_installed(name: str) -> bool:
    """True if the framework can be imported; for Ray, Ray Tune with what it needs."""
    needed = (name, "pyarrow") if name == "ray" else (name,)
    return all(importlib.util.find_spec(module) is not None for module in needed)


INSTALLED = tuple(name for name in FRAMEWORKS if is_installed(name))
