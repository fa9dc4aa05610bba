"""Attributions along a path from a baseline to the input, or to the feature."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gnt.importance.attribution._evaluation import Evaluation
from gnt.importance.attribution._reads import Read, Reader, along_positions, check_same_shapes, positions_of
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
            terms = [gradient * change for gradient, change in zip(at_before, _changes(before, reads), strict=True)]
            total = _sum(total, terms)
    return reads, total


def internal_influence(
    of: Evaluation, baseline: ModelInputs, n: int, between: Interpolate
) -> tuple[list[Read], list[Tensor]]:
    """Sum over steps of w_k dF/dh(x_k) of each read."""
    total: list[Tensor] = []
    reads: list[Read] = []
    for node, weight in zip(*gauss_legendre(n), strict=True):
        reads, gradients = of.gradients(between(baseline, of.x, node))
        total = _sum(total, [gradient * weight for gradient in gradients])
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
        changes = _changes(before, reads)
        check_same_shapes(gradients, changes)
        pairs = zip(gradients, changes, strict=True)
        total = _sum(total, [gradient * change / len(positions) for gradient, change in pairs])
    return reads, total


def integrated_gradients(of: Evaluation, baseline: ModelInputs, n: int, group: int) -> tuple[list[Read], list[Tensor]]:
    """(h - h0) times the mean of dF/dh over the straight path from h0 to h, for the units of one group."""
    with torch.no_grad():
        _, before = of.forward(baseline)
        _, reads = of.forward(of.x)
    changes = _changes(before, reads)
    own = [along_positions(positions_of(read.readers, group, read.value), read.readers[0].slot) for read in reads]
    total: list[Tensor] = []
    for node, weight in zip(*gauss_legendre(n), strict=True):
        points = [was.value + node * change for was, change in zip(before, changes, strict=True)]
        _, gradients = of.gradients(of.x, _Set(own, points))
        total = _sum(total, [gradient * weight for gradient in gradients])
    triples = zip(own, changes, total, strict=True)
    return reads, [
        torch.where(units, change * gradient, torch.zeros_like(change)) for units, change, gradient in triples
    ]


class _Set:
    """Sets the features of some units to given values, also where they depend on units that were set before."""

    def __init__(self, own: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self._own, self._values = own, values

    def __call__(self, number: int, readers: Sequence[Reader], value: Tensor) -> Tensor:
        check_same_shapes([value], self._values[number : number + 1])
        return torch.where(self._own[number], self._values[number], value)


def _changes(before: Sequence[Read], reads: Sequence[Read]) -> list[Tensor]:
    """What is read in one forward minus what is read in another."""
    check_same_shapes([read.value for read in before], [read.value for read in reads])
    return [(now.value - was.value).detach() for now, was in zip(reads, before, strict=True)]


def _sum(total: list[Tensor], terms: list[Tensor]) -> list[Tensor]:
    if not total:
        return terms
    check_same_shapes(total, terms)
    return [a + b for a, b in zip(total, terms, strict=True)]
