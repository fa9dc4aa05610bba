"""The measure by the magnitude of a unit's feature alone."""

from __future__ import annotations

from torch import Tensor

from gnt.importance._group_signals import unit_mean
from gnt.importance._signals import Signals


def activation(signals: Signals) -> Tensor:
    """Mean |h|."""
    return unit_mean(signals.magnitude)
