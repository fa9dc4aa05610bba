"""Evaluation of simple groups by one call of a C kernel, ``gnt/_kernels/unit_statistics.c``.

The kernel is given addresses, which are looked up once; each call checks that the weights are still at these addresses.
Tensors that the kernel cannot read are evaluated by torch operations.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from gnt._kernels import load
from gnt.importance._evaluate.eager import EagerEvaluation
from gnt.importance._evaluate.means_layout import GroupLayout, MeansLayout, WeightMeans
from gnt.importance._shared_state import SharedState

_CHUNK_ROWS = 64  # number of rows of a weight that the kernel sums together
GROUP, WEIGHT = 13, 8  # number of integers in the kernel's record of a group, and of a weight
_SAMPLES, _LAG = 8, 12  # index in a group's record of the number of samples, and of the lag of its updates
CURRENT = 7  # index in a weight's record of whether its means are current


class KernelEvaluation(EagerEvaluation):
    """Evaluation by the kernel, for float32 or float64 tensors on the CPU.

    Attributes:
        groups: the kernel's record of each group, which begins with the address of its feature.
        weights: the kernel's record of each weight.
        call: the kernel with these records; takes the number of the update, and the number of threads.
        located: the weights whose addresses the kernel has, and where the means of each are stored; None: not known.
    """

    def __init__(self, layout: MeansLayout, shared: SharedState, reads: frozenset[str]) -> None:
        super().__init__(layout, shared, reads)
        self._dtype = shared.averages.dtype
        decay_rate = shared.states[0].decay_rate
        load("unit_statistics", self._dtype)  # raises the error of a kernel that cannot be loaded
        self._numbers = array("d", [decay_rate, math.log(decay_rate) if decay_rate else 0.0])
        self._reads = self._feature + 2 * self._outgoing + 4 * self._incoming + 8 * self._centered
        self.groups = array("q", [number for group in layout.simple for number in _group_record(group)])
        self._lags = shared.lags
        self.weights = array("q", [0] * (WEIGHT * len(layout.weights)))
        self._scratch = layout.feature.new_empty(0)
        self.located: list[tuple[Tensor, WeightMeans]] | None = None
        self._addresses: list[int] = []  # of these weights
        self.call: partial[None]

    def evaluate(self, features: Sequence[Tensor | None]) -> bool:
        """Compute mean feature and utility of each unit; ``features`` are those of the simple groups.

        Returns whether the kernel did it.
        """
        if not self._locate(features):
            return super().evaluate(features)
        for i, (weight, means) in enumerate(self.located or ()):
            self.weights[i * WEIGHT + CURRENT] = means.take_current(weight)
        self.call(self._shared.states[0].updates + 1, torch.get_num_threads())
        return True

    def _locate(self, features: Sequence[Tensor | None]) -> bool:
        """Write the addresses of features and weights; return False if the kernel cannot read them."""
        if self._shared.lags is not self._lags:
            self._lags = self._shared.lags
            for i, group in enumerate(self._layout.simple):
                self.groups[i * GROUP + _LAG] = self._lags[group.number]
        for i, (feature, group) in enumerate(zip(features, self._layout.simple, strict=True)):
            if feature is None:
                self.groups[i * GROUP + _SAMPLES] = 0
                continue
            if feature.__class__ is not Tensor or feature.dtype is not self._dtype or not feature.is_contiguous():
                return False
            shape, spatial = feature.shape, group.spatial
            if not feature.is_cpu or shape[-spatial - 1] != group.positions:
                return False
            sites = 1 if spatial == 0 else shape[-spatial:].numel()
            at = i * GROUP
            self.groups[at] = feature.data_ptr()
            self.groups[at + _SAMPLES] = feature.numel() // (group.positions * sites)
            self.groups[at + _SAMPLES + 2] = sites
        if self.located is None or not self._are_at_addresses(self.located):
            self.located = None
            located: list[tuple[Tensor, WeightMeans]] = []
            for i, means in enumerate(self._layout.weights):
                weight = means.module.weight
                if not isinstance(weight, nn.Parameter) or not _is_at(weight, means, weight.data_ptr(), self._dtype):
                    return False
                self.weights[i * WEIGHT : (i + 1) * WEIGHT] = array("q", _weight_record(weight, means))
                located.append((weight, means))
            self.located, self._addresses = located, [weight.data_ptr() for weight, _ in located]
            self._prepare_call(located)
        return True

    def _are_at_addresses(self, located: Sequence[tuple[Tensor, WeightMeans]]) -> bool:
        pairs = zip(located, self._addresses, strict=True)
        return all(_is_at(weight, means, address, self._dtype) for (weight, means), address in pairs)

    def _prepare_call(self, located: Sequence[tuple[Tensor, WeightMeans]]) -> None:
        """Reserve the memory that the kernel needs for intermediate results, and prepare its arguments."""
        of_groups = [3 * group.positions for group in self._layout.simple]
        of_weights = [
            means.groups * -(-weight.shape[0] // means.groups // _CHUNK_ROWS) * weight.shape[1]
            for weight, means in located
            if means.columns is not None
        ]
        self._scratch = self._scratch.new_empty(max([0, *of_groups, *of_weights]))
        numbers = (each.buffer_info()[0] for each in (self.groups, self.weights, self._numbers))
        counts = len(self._layout.simple), len(located)
        kernel = load("unit_statistics", self._dtype)
        self.call = partial(kernel, *numbers, self._scratch.data_ptr(), *counts, self._reads)


def _is_at(weight: Tensor, means: WeightMeans, address: int, dtype: torch.dtype) -> bool:
    """True if ``weight`` is still the module's weight, at this address, and the kernel can read it."""
    same = means.module._parameters.get("weight") is weight and weight.data_ptr() == address
    return same and weight.dtype is dtype and weight.is_cpu and weight.is_contiguous() and means.fit(weight)


def _group_record(group: GroupLayout) -> list[int]:
    tensors = (group.mean, group.utility, group.feature, group.average, group.born, group.outgoing, group.incoming)
    return [0, *(tensor.data_ptr() for tensor in tensors), 0, group.positions, 1, group.block, 0]


def _weight_record(weight: Tensor, means: WeightMeans) -> list[int]:
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in (means.rows, means.columns)]
    rows, columns = weight.shape[0] // means.groups, weight.shape[1]
    return [weight.data_ptr(), *addresses, means.groups, rows, columns, weight.shape[2:].numel(), 0]
