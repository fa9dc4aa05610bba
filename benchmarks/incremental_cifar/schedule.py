"""The learning rate within a stage, and the order of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..seeds import stream

MILESTONES = (0.3, 0.6, 0.8)
"""Fractions of a stage after which the learning rate is reduced: epochs 60, 120 and 160 of 200."""

FACTOR = 0.2


def learning_rate(initial: float, epoch: int, epochs: int, milestones: Sequence[float] = MILESTONES) -> float:
    """The learning rate in an epoch (from 0) of a stage with ``epochs`` epochs.

    >>> [round(learning_rate(0.1, epoch, 200), 6) for epoch in (0, 59, 60, 119, 120, 160, 199)]
    [0.1, 0.1, 0.02, 0.02, 0.004, 0.0008, 0.0008]
    """
    return initial * FACTOR ** sum(epoch + 1e-9 >= share * epochs for share in milestones)


def class_order(classes: int, seed: int) -> Tensor:
    """The order in which the classes are added: int64 of (classes,)."""
    return torch.randperm(classes, generator=stream(seed, "class order"))
