"""Units that have stopped: dead ones, silent for every sample, and dormant ones, nearly silent beside their peers.

Features are (samples, units), or (samples, channels, *size) as convolutions give them: a channel is one unit, measured
over all samples and all places. Of a sequence model's (batch, time, units) each token is a sample: flatten(0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnt.metrics import _validation as checks

DORMANT_TAU = 0.1


def dead_units(features: Tensor) -> float:
    """Share of units that are 0 for every sample::

        |{i : sum over samples (and places) of |h_i| = 0}| / units

    -0 is 0; a value that is merely small is not.

    Args:
        features: (samples, units) or (samples, channels, *size), what the consumers read.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: ``features`` is no tensor.
        ValueError: not floating point, fewer than two dimensions, no samples or no units.
        FloatingPointError: not finite.

    Source: Dohare et al., Nature 632 (2024), Methods: over 2,000 images of the new task, before training on it.

    >>> import torch
    >>> dead_units(torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 3.0, 4.0]]))
    0.25
    """
    return share_dead(activity(checks.features(features)))


def dormant_units(features: Tensor, tau: float = DORMANT_TAU) -> float:
    """Share of units whose mean magnitude is at most ``tau`` of what is usual in their layer::

        s_i = E|h_i| / (1/H sum_k E|h_k|),    dormant: s_i <= tau

    E is the mean over samples (and places), H the number of units. In a layer that is 0 throughout all are dormant;
    with ``tau=0`` just the dead ones are.

    Args:
        features: (samples, units) or (samples, channels, *size), what the consumers read.
        tau: the threshold, at least 0.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: ``features`` is no tensor, ``tau`` no number.
        ValueError: not floating point, fewer than two dimensions, no samples or no units; ``tau`` out of range.
        FloatingPointError: not finite.

    Source: Sokar et al., "The dormant neuron phenomenon", ICML 2023 (ReDo, arXiv 2302.12902), Definition 3.1.

    >>> import torch
    >>> dormant_units(torch.tensor([[0.0, 0.1, 2.0, 2.0], [0.0, 0.1, 2.0, 2.0]]))
    0.5
    """
    tau = checks.number("tau", tau, above=0.0, least=True)
    return share_dormant(mean_magnitude([checks.features(features)]), tau)


def activity(features: Tensor) -> Tensor:
    """Whether each unit of checked features is anything but 0 somewhere: (units,), bool."""
    # by comparison: a sum of magnitudes can vanish or overflow
    return (features != 0).transpose(0, 1).flatten(1).any(1).cpu()


def mean_magnitude(several: Sequence[Tensor]) -> Tensor:
    """E|h_i| of each unit up to one factor for all of them, the mean over several readings: (units,), float64.

    The factor makes the largest magnitude about 1, so that no mean overflows or vanishes.
    """
    sizes = [features.abs() for features in several]
    largest = max(float(size.max()) for size in sizes)
    means = [checks.scaled(size, largest).transpose(0, 1).flatten(1).mean(1).cpu().double() for size in sizes]
    return torch.stack(means).mean(0)


def share_dead(active: Tensor) -> float:
    """Of `activity` the share that is none."""
    return int((~active).sum()) / len(active)


def share_dormant(magnitude: Tensor, tau: float) -> float:
    """Of `mean_magnitude` the share at most ``tau`` times their mean."""
    return int((magnitude <= tau * magnitude.mean()).sum()) / len(magnitude)
