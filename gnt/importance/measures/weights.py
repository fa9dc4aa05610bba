"""Measures by the magnitude of a unit's weights."""

from __future__ import annotations

from torch import Tensor

from gnt.importance._group_signals import unit_mean
from gnt.importance._signals import Signals


def weight(signals: Signals) -> Tensor:
    """Mean |w_out|."""
    return unit_mean(signals.outgoing)


def incoming_weight(signals: Signals) -> Tensor:
    """Mean |w_in|."""
    return signals.incoming


def adaptation(signals: Signals) -> Tensor:
    """1 / mean |w_in|: how quickly a step of given size changes the unit (arXiv 2306.13812, before Eq. 6)."""
    return 1.0 / signals.incoming


def feature_by_input(signals: Signals) -> Tensor:
    """Mean |h - f^| / mean |w_in|."""
    return unit_mean(signals.deviation) / signals.incoming
