"""Measures by gradients of the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from gnt.importance._group_signals import unit_mean
from gnt.importance._signals import Signals


def gradient(signals: Signals) -> Tensor:
    """Mean |dL/dw_in|, divided by its mean over the units of the layer (GraMa, arXiv 2505.24061)."""
    magnitude = signals.incoming_gradient
    return magnitude / signals.layer_mean(magnitude).clamp_min(torch.finfo(magnitude.dtype).tiny)


def gradient_activation(signals: Signals) -> Tensor:
    """Mean |h dL/dh|: the change of the loss, to first order, if the unit's feature becomes 0 in one sample."""
    return unit_mean(signals.feature_times_gradient)


def replacement_cost(signals: Signals) -> Tensor:
    """|Sum over samples of dL/dh (h - f^)|: the change of the loss, to first order, if f^ takes the unit's place.

    This is what moving the mean contribution into the consumers' bias costs (GXD, arXiv 2605.06834).
    """
    return signals.centered_times_gradient.sum(1).abs()


def incoming_gradient(signals: Signals) -> Tensor:
    """Mean |dL/dw_in|: `gradient` without the division by the mean of the layer."""
    return signals.incoming_gradient


def outgoing_gradient(signals: Signals) -> Tensor:
    """Mean |dL/dw_out|."""
    return unit_mean(signals.outgoing_gradient)


def incoming_fisher(signals: Signals) -> Tensor:
    """Mean (dL/dw_in)^2, with the gradient of the step's loss: not the Fisher information of single samples."""
    return signals.incoming_gradient_square


def outgoing_fisher(signals: Signals) -> Tensor:
    """Mean (dL/dw_out)^2, with the gradient of the step's loss."""
    return unit_mean(signals.outgoing_gradient_square)


def incoming_fisher_activation(signals: Signals) -> Tensor:
    """Mean |h| * mean (dL/dw_in)^2."""
    return unit_mean(signals.magnitude) * signals.incoming_gradient_square


def outgoing_fisher_activation(signals: Signals) -> Tensor:
    """Mean |h| * mean (dL/dw_out)^2."""
    return unit_mean(signals.magnitude * signals.outgoing_gradient_square)
