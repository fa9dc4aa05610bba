"""The experiments there are, and how their modules are found. Imports none of them until asked."""

from __future__ import annotations

import importlib
from typing import Any

NAMES = (
    "slowly_changing_regression",
    "random_label_mnist",
    "permuted_mnist",
    "class_pairs",
    "incremental_cifar",
    "slippery_ant",
)


def settings_class(experiment: str) -> Any:
    """The experiment's ``Settings``, a `benchmarks.settings.BaseSettings`. Imports no torch."""
    return importlib.import_module(f"benchmarks.{experiment}.settings").Settings


def training_class(experiment: str) -> Any:
    """The experiment's `benchmarks.training.Training`: called with settings, method and seeds."""
    return importlib.import_module(f"benchmarks.{experiment}.training").Training


def display(experiment: str) -> Any:
    """The experiment's `benchmarks.display.Display`."""
    return importlib.import_module(f"benchmarks.{experiment}.display").DISPLAY
