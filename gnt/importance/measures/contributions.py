"""Measures by the contribution of a unit: magnitude of the feature times that of weights."""

from __future__ import annotations

from torch import Tensor

from gnt.importance._group_signals import unit_mean
from gnt.importance._signals import Signals


def contribution(signals: Signals) -> Tensor:
    """Mean |h| * mean |w_out|: the magnitude of what the unit adds to its consumers (arXiv 2306.13812, Eq. 2)."""
    return unit_mean(signals.magnitude * signals.outgoing)


def uncorrected_contribution(signals: Signals) -> Tensor:
    """Mean |h| * sum |w_out|, ranked by its running average without age correction (Nature 632 (2024), Eq. 1)."""
    slots = signals.consumers
    weights, positions = sum(slot.fan * slot.block for slot in slots), sum(slot.block for slot in slots)
    return (signals.magnitude * signals.outgoing).sum(1) * (weights / positions)


def zero_contribution(signals: Signals) -> Tensor:
    """Mean |h - f^| * mean |w_out|: the loss of replacing the unit by its mean (arXiv 2306.13812, before Eq. 6)."""
    return unit_mean(signals.deviation * signals.outgoing)


def adaptable_contribution(signals: Signals) -> Tensor:
    """Mean |h - f^| * mean |w_out| / mean |w_in|: the paper's overall utility (arXiv 2306.13812, Eqs. 6-8)."""
    return unit_mean(signals.deviation * signals.outgoing) / signals.incoming


def incoming_contribution(signals: Signals) -> Tensor:
    """Mean |h| * mean |w_in|: the magnitude of the feature times that of the incoming weights."""
    return unit_mean(signals.magnitude) * signals.incoming


def adaptive_contribution(signals: Signals) -> Tensor:
    """Mean |h| * mean |w_out| / mean |w_in|: `adaptable_contribution` without the correction for the mean feature."""
    return unit_mean(signals.magnitude * signals.outgoing) / signals.incoming
