"""Dead units, which output 0 for every sample, and dormant units, whose output is small within their layer.

Features are (samples, units), or (samples, channels, *size) as convolutions return them: a channel is one unit,
measured over all samples and positions. For a sequence model's (batch, time, units), pass ``unit_dim=-1``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnt.metrics._numerics import scale_to_unit_range
from gnt.metrics._validation import checked_features, checked_number

DORMANT_TAU = 0.1


def dead_units(features: Tensor, *, unit_dim: int = 1) -> float:
    """Share of units that are 0 for every sample::

        |{i : sum over samples (and positions) of |h_i| = 0}| / units

    Small values do not count as 0; -0 does.

    Args:
        features: (samples, units) or (samples, channels, *size), what the consumers read.
        unit_dim: the dimension of the units; -1 for what a linear layer reads of a sequence, (batch, time, units).

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: ``features`` is not a tensor.
        ValueError: not floating point, fewer than two dimensions, no samples or no units.
        FloatingPointError: NaN or infinite values.

    Source: Dohare et al., Nature 632 (2024), Methods: over 2,000 images of the new task, before training on it.

    >>> import torch
    >>> dead_units(torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 3.0, 4.0]]))
    0.25
    >>> dead_units(torch.tensor([[[0.0, 1.0], [0.0, 2.0], [0.0, 0.0]]]), unit_dim=-1)  # (batch, time, units)
    0.5
    """
    return dead_share(active_units(checked_features(features, unit_dim)))


def dormant_units(features: Tensor, tau: float = DORMANT_TAU, *, unit_dim: int = 1) -> float:
    """Share of units whose mean magnitude is at most ``tau`` times the mean over their layer::

        s_i = E|h_i| / (1/H sum_k E|h_k|),    dormant: s_i <= tau

    E is the mean over samples (and positions), H the number of units. If all features are 0, all units are dormant.
    With ``tau=0`` only dead units are dormant.

    Args:
        features: (samples, units) or (samples, channels, *size), what the consumers read.
        tau: threshold, >= 0.
        unit_dim: the dimension of the units; -1 for what a linear layer reads of a sequence, (batch, time, units).

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: ``features`` is not a tensor, or ``tau`` not a number.
        ValueError: not floating point, fewer than two dimensions, no samples or no units; ``tau`` out of range.
        FloatingPointError: NaN or infinite values.

    Source: Sokar et al., "The dormant neuron phenomenon", ICML 2023 (ReDo, arXiv 2302.12902), Definition 3.1.

    >>> import torch
    >>> dormant_units(torch.tensor([[0.0, 0.1, 2.0, 2.0], [0.0, 0.1, 2.0, 2.0]]))
    0.5
    """
    tau = checked_number("tau", tau)
    return dormant_share(relative_magnitudes([checked_features(features, unit_dim)]), tau)


def active_units(features: Tensor) -> Tensor:
    """Whether each unit of checked features is nonzero anywhere: (units,), bool, on the CPU."""
    # compared with 0, because a sum of magnitudes can underflow or overflow
    return (features != 0).transpose(0, 1).flatten(1).any(1).cpu()


def relative_magnitudes(features: Sequence[Tensor]) -> Tensor:
    """Mean magnitude E|h_i| of each unit, up to a factor common to all units: (units,), float64, on the CPU.

    ``features`` holds the tensors read by different consumers of the same units; the result is the mean over them. The
    common factor makes the largest magnitude about 1, so that no mean overflows or underflows.
    """
    magnitudes = [tensor.abs() for tensor in features]
    largest = max(float(magnitude.max()) for magnitude in magnitudes)
    scaled = (scale_to_unit_range(magnitude, largest) for magnitude in magnitudes)
    return torch.stack([each.transpose(0, 1).flatten(1).mean(1).cpu().double() for each in scaled]).mean(0)


def dead_share(active: Tensor) -> float:
    """`dead_units` from the result of `active_units`."""
    return int((~active).sum()) / len(active)


def dormant_share(magnitudes: Tensor, tau: float) -> float:
    """`dormant_units` from the result of `relative_magnitudes`."""
    return int((magnitudes <= tau * magnitudes.mean()).sum()) / len(magnitudes)
