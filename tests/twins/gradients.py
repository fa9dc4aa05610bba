"""Literal twins of the measures that read gradients: one sample, one unit and one weight at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tail = Callable[[Tensor], Tensor]  # from what one consumer reads to the loss, all else being constant


def gradient_activation(samples: Sequence[tuple[Tensor, Tensor]], f_hat: float) -> float:
    """Mean |h dL/dh| over samples and positions; ``samples`` are pairs (h, dL/dh) of one unit."""
    products = [float(abs(h * g)) for hs, gs in samples for h, g in zip(hs.flatten(), gs.flatten(), strict=True)]
    return sum(products) / len(products)


def replacement_cost(samples: Sequence[tuple[Tensor, Tensor]], f_hat: float) -> float:
    """|Sum over samples and positions of dL/dh (h - f_hat)|."""
    pairs = [(h, g) for hs, gs in samples for h, g in zip(hs.flatten(), gs.flatten(), strict=True)]
    return abs(sum(float(g * (h - f_hat)) for h, g in pairs))


MEASURES = {"gradient_activation": gradient_activation, "replacement_cost": replacement_cost}


def gradient(weights: Sequence[Tensor]) -> list[float]:
    """Mean |dL/dw_in| of each unit over its mean over the units; ``weights`` are gradients, a row for each unit."""
    rows = [torch.cat([w[i].flatten() for w in weights]) for i in range(len(weights[0]))]
    means = [sum(float(abs(g)) for g in row) / len(row) for row in rows]
    return [mean / (sum(means) / len(means)) for mean in means]


def samples_of_units(h: Tensor, tail: Tail, units: int) -> list[list[tuple[Tensor, Tensor]]]:
    """For each unit the feature and the gradient of the loss of each sample, by autograd on single samples.

    Args:
        h: what a consumer reads, samples first, with the positions of each unit next to each other.
        tail: the loss of one sample, (1, ...) and its number -> 0-d.
        units: number of units.
    """
    by_unit: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(units)]
    for number in range(len(h)):
        feature = h[number : number + 1].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(tail(feature, number), feature)
        pairs = zip(feature[0].reshape(units, -1), gradient[0].reshape(units, -1), strict=True)
        for i, (own, g) in enumerate(pairs):
            by_unit[i].append((own.detach(), g))
    return by_unit


class RunningMean:
    """The corrected running average of one number per unit."""

    def __init__(self, decay: float) -> None:
        self._decay, self._total, self._weight = decay, 0.0, 0.0

    def __call__(self, value: float) -> float:
        self._total = self._decay * self._total + (1 - self._decay) * value
        self._weight = self._decay * self._weight + (1 - self._decay)
        return self._total / self._weight
