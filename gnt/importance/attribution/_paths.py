"""Attributions along a path from a baseline to the input, or to the feature."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gnt.importance.attribution._evaluation import Evaluation
from gnt.importance.attribution._reads import Read, Reader, along_positions, positions_of
from gnt.units import ModelInputs

Interpolate = Callable[[ModelInputs, ModelInputs, Any], ModelInputs]


@functools.lru_cache(maxsize=64)
def gauss_legendre(n: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of the Gauss-Legendre rule with ``n`` points on [0, 1] (Golub and Welsch, 1969)."""
    off = [k / math.sqrt(4 * k * k - 1) for k in range(1, n)]
    matrix = torch.zeros(n, n, dtype=torch.float64, device="cpu")
    for k, value in enumerate(off):
        matrix[k, k + 1] = matrix[k + 1, k] = value
    nodes, vectors = torch.linalg.eigh(matrix)
    return tuple(((nodes + 1) / 2).tolist()), tuple(vectors[0].square().tolist())


def conductance(of: Evaluation, baseline: ModelInputs, n: int, between: Interpolate) -> tuple[list[Read], list[Tensor]]:
    """Sum over steps of dF/dh(x_k) (h(x_k+1) - h(x_k)) of each read."""
    nodes, _ = gauss_legendre(n + 1)
    total: list[Tensor] = []
    reads: list[Read] = []
    gradients: list[Tensor] = []
    for node in nodes:
        before, at_before = reads, gradients
        reads, gradients = of.gradients(between(baseline, of.x, node))
        if before:
            pairs = zip(at_before, reads, before, strict=True)
            terms = [gradient * (now.value - was.value).detach() for gradient, now, was in pairs]
            total = [a + b for a, b in zip(total, terms, strict=True)] if total else terms
    return reads, total


def internal_influence(
    of: Evaluation, baseline: ModelInputs, n: int, between: Interpolate
) -> tuple[list[Read], list[Tensor]]:
    """Sum over steps of w_k dF/dh(x_k) of each read."""
    total: list[Tensor] = []
    reads: list[Read] = []
    for node, weight in zip(*gauss_legendre(n), strict=True):
        reads, gradients = of.gradients(between(baseline, of.x, node))
        terms = [gradient * weight for gradient in gradients]
        total = [a + b for a, b in zip(total, terms, strict=True)] if total else terms
    return reads, total


def gradient_shap(
    of: Evaluation,
    baselines: Sequence[ModelInputs],
    positions: Sequence[Tensor],
    between: Interpolate,
) -> tuple[list[Read], list[Tensor]]:
    """Mean over draws of dF/dh(x0 + u (x - x0)) (h(x) - h(x0)) of each read.

    Args:
        of: the network and the samples.
        baselines: x0 of each draw; the same object if it is the same.
        positions: u of each sample, for each draw.
        between: interpolates between baseline and input.
    """
    with torch.no_grad():
        _, reads = of.forward(of.x)
    total: list[Tensor] = []
    before: list[Read] = []
    last: ModelInputs | None = None
    for baseline, u in zip(baselines, positions, strict=True):
        if baseline is not last:
            with torch.no_grad():
                _, before = of.forward(baseline)
            last = baseline
        _, gradients = of.gradients(between(baseline, of.x, u))
        triples = zip(gradients, reads, before, strict=True)
        terms = [gradient * (now.value - was.value) / len(positions) for gradient, now, was in triples]
        total = [a + b for a, b in zip(total, terms, strict=True)] if total else terms
    return reads, total


def integrated_gradients(of: Evaluation, baseline: ModelInputs, n: int, group: int) -> tuple[list[Read], list[Tensor]]:
    """(h - h0) times the mean of dF/dh over the straight path from h0 to h, for the units of one group."""
    with torch.no_grad():
        _, before = of.forward(baseline)
        _, reads = of.forward(of.x)
    changes: list[Tensor] = []
    for was, now in zip(before, reads, strict=True):
        own = along_positions(positions_of(now.readers, group, now.value), now.readers[0].slot)
        change = now.value - was.value
        changes.append(torch.where(own, change, torch.zeros_like(change)))
    total: list[Tensor] = []
    for node, weight in zip(*gauss_legendre(n), strict=True):
        _, gradients = of.gradients(of.x, _Move(changes, node - 1))
        terms = [gradient * weight for gradient in gradients]
        total = [a + b for a, b in zip(total, terms, strict=True)] if total else terms
    return reads, [change * gradient for change, gradient in zip(changes, total, strict=True)]


class _Move:
    """Adds a multiple of given changes to what is read."""

    def __init__(self, changes: Sequence[Tensor], factor: float) -> None:
        self._changes, self._factor = changes, factor

    def __call__(self, number: int, readers: Sequence[Reader], value: Tensor) -> Tensor:
        return value + self._factor * self._changes[number]
