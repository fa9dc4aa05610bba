"""The list of experiments, and access to their modules, which are imported on request."""

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
    "split_digits",
    "permuted_tasks",
    "nightly",
    "flights",
)


def settings_class(experiment: str) -> Any:
    """An experiment's ``Settings``, a subclass of `benchmarks.settings.BaseSettings`. Does not import torch."""
    return importlib.import_module(f".{experiment}.settings", __package__).Settings


def training_class(experiment: str) -> Any:
    """An experiment's ``Training``, a subclass of `benchmarks.training.Training`; called with settings, method and
    seeds.
    """
    return importlib.import_module(f".{experiment}.training", __package__).Training


def display(experiment: str) -> Any:
    """An experiment's `benchmarks.display.Display`."""
    return importlib.import_module(f".{experiment}.display", __package__).DISPLAY
