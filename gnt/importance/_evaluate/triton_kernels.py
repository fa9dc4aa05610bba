"""Evaluation of simple groups by the Triton kernels of ``gnt/_triton/unit_statistics.py``, in two launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnt._triton import DeviceTables, is_capturing, on_device
from gnt.importance._evaluate.eager import EagerEvaluation
from gnt.importance._evaluate.means_layout import MeansLayout
from gnt.importance._shared_state import SharedState

KINDS = {torch.bfloat16: 1, torch.float16: 2}  # 0: the dtype of the state
_PROGRAMS = 1056  # at most about so many programs share the sums of a tensor: 8 for each processor of an H100
_MOST_CHUNKS = 64
_MOST_PLANS = 16


class TritonEvaluation(EagerEvaluation):
    """Evaluation by Triton kernels, for float32 and float64 states on a GPU.

    Features may have half precision, as under autocast; the sums have the dtype of the state. Tensors that the kernels
    cannot read are evaluated by torch operations.
    """

    def __init__(self, layout: MeansLayout, shared: SharedState, reads: frozenset[str]) -> None:
        super().__init__(layout, shared, reads)
        from gnt._triton import unit_statistics

        self._kernels: Any = unit_statistics
        self._dtype, self._device = shared.averages.dtype, shared.averages.device
        scalar = unit_statistics.scalar_type(self._dtype)
        self._sizes = (
            scalar,
            unit_statistics.TASK_FIELDS,
            unit_statistics.WIDE_ROWS,
            unit_statistics.WIDE_POSITIONS,
            unit_statistics.LONG_POSITIONS,
            unit_statistics.LONG_ELEMENTS,
        )
        self._flags = (
            torch.finfo(self._dtype).eps,
            scalar,
            unit_statistics.GROUP_FIELDS,
            self._feature,
            self._outgoing,
            self._incoming,
            unit_statistics.UNITS,
            unit_statistics.CHUNKS,
        )
        self._sums = torch.empty(0, dtype=self._dtype, device=self._device)
        self._magnitudes = torch.empty_like(self._sums)
        self._captured: list[Any] = []  # what captured graphs use
        self._plans: dict[tuple[Any, ...], _Plan] = {}

    @classmethod
    def supports(cls, reads: frozenset[str]) -> bool:
        """True for measures that need one pass over the features."""
        return "deviation" not in reads

    def accepts(self, feature: Tensor) -> bool:
        """True for a dtype that the kernels read."""
        return feature.dtype is self._dtype or feature.dtype in KINDS

    def evaluate(self, features: Sequence[Tensor | None]) -> bool:
        """Compute mean feature and measure of each unit; ``features`` are those of the simple groups."""
        weights = [means.module._parameters.get("weight") for means in self._layout.weights]
        plan = self._plan(features, weights)
        if plan is None:
            return super().evaluate([f if f is None or f.dtype is self._dtype else f.to(self._dtype) for f in features])
        kernels, shared = self._kernels, self._shared
        if self._sums.numel() < plan.num_slots:
            self._sums = torch.empty(plan.num_slots, dtype=self._dtype, device=self._device)
            self._magnitudes = torch.empty_like(self._sums)
        if is_capturing(self._device):
            self._captured.append((self._sums, self._magnitudes, plan))
        weight_table, feature_table, group_table = plan.tables(features, weights)
        with on_device(self._device):
            kernels.partial_sums[(plan.most_programs, plan.num_tasks)](
                weight_table, feature_table, plan.num_weights, self._sums, self._magnitudes, *self._sizes
            )
            kernels.combine[(plan.most_units, plan.num_groups)](
                group_table, self._sums, self._magnitudes, shared.measured, shared.num_features, *self._flags
            )
        return False

    def _plan(self, features: Sequence[Tensor | None], weights: Sequence[Any]) -> _Plan | None:
        """How the tensors are divided among programs; None if the kernels cannot read them."""
        for weight in weights:
            if not isinstance(weight, Tensor) or weight.dtype is not self._dtype or weight.device != self._device:
                return None
            if not weight.is_contiguous():
                return None
        key = (*(None if f is None else (f.shape, f.dtype) for f in features), *(w.shape for w in weights))
        plan = self._plans.get(key)
        if plan is None:
            for weight, means in zip(weights, self._layout.weights, strict=True):
                if means.groups > 1 or not means.fit(weight):
                    return None
            if len(self._plans) >= _MOST_PLANS and not is_capturing(self._device):
                self._plans.pop(next(iter(self._plans)))
            plan = self._plans[key] = _Plan(self._kernels, self._layout, self._shared, features, weights)
        return plan


class _Plan:
    """The tables for features and weights of certain shapes."""

    def __init__(
        self,
        kernels: Any,
        layout: MeansLayout,
        shared: SharedState,
        features: Sequence[Tensor | None],
        weights: Sequence[Tensor],
    ) -> None:
        shapes: list[tuple[int, tuple[int, ...], Any]] = []  # number of the tensor, sizes of the task, what it is for
        for i, (weight, means) in enumerate(zip(weights, layout.weights, strict=True)):
            inner = weight.shape[2:].numel()
            row = weight.shape[1] * inner
            if means.columns is not None:
                shapes.append((i, (weight.shape[1], weight.shape[0] * inner, inner, row, inner, 0), means.columns))
            if means.rows is not None:
                shapes.append((i, (weight.shape[0], row, row, row, row, 0), means.rows))
        self.num_weights = len(shapes)
        for i, (feature, group) in enumerate(zip(features, layout.simple, strict=True)):
            if feature is not None:
                sites = 1 if group.spatial == 0 else feature.shape[-group.spatial :].numel()
                size = feature.numel() // group.positions
                shapes.append((i, (group.positions, size, sites, group.positions * sites, sites, 1), group))
        self.num_tasks, self.num_slots, self.most_programs = len(shapes), 0, 1
        self._tasks: list[tuple[int, tuple[int, ...]]] = []
        found: dict[int, tuple[int, int, int]] = {}  # by the id of what a task is for: slot, chunks, size
        for number, (positions, size, inner, outer_stride, stride, signed), what in shapes:
            wide = stride == 1
            width = kernels.WIDE_POSITIONS if wide else kernels.LONG_POSITIONS
            step = kernels.WIDE_ROWS if wide else kernels.LONG_ELEMENTS
            blocks = -(-positions // width)
            wanted = max(1, min(_MOST_CHUNKS, _PROGRAMS // blocks, -(-size // (4 * step))))
            chunk = -(-size // wanted)
            chunk = -(-chunk // step) * step
            chunks = -(-size // chunk)
            self._tasks.append((number, (positions, size, inner, outer_stride, stride, chunk, self.num_slots, signed)))
            found[id(what)] = self.num_slots, chunks, size
            self.num_slots += positions * chunks
            self.most_programs = max(self.most_programs, blocks * chunks)
        rows: list[int] = []
        nothing = (0, 0, 1)
        for group in layout.simple:
            slot, chunks, size = found.get(id(group), nothing)
            outgoing, incoming = found.get(id(group.outgoing), nothing), found.get(id(group.incoming), nothing)
            first = int(group.utility.storage_offset()) - shared.num_features
            rows += [group.utility.numel(), group.block, first, int(group.mean.storage_offset())]
            rows += [int(id(group) in found), size, slot, chunks, *outgoing, *incoming]
        self._groups = rows
        self.num_groups = len(layout.simple)
        self.most_units = -(-max(group.utility.numel() for group in layout.simple) // kernels.UNITS)
        self._tables = [DeviceTables(shared.measured.device) for _ in range(3)]

    def tables(self, features: Sequence[Tensor | None], weights: Sequence[Any]) -> list[Tensor]:
        """The tables of weights, features and groups."""
        of_weights, of_features, of_groups = self._tables
        at_weights = tuple(weight.data_ptr() for weight in weights)
        at_features = tuple(0 if feature is None else feature.data_ptr() for feature in features)
        return [
            of_weights.table(at_weights, lambda: _rows(self._tasks[: self.num_weights], weights)),
            of_features.table(at_features, lambda: _rows(self._tasks[self.num_weights :], features)),
            of_groups.table((), lambda: self._groups),
        ]


def _rows(tasks: Sequence[tuple[int, tuple[int, ...]]], tensors: Sequence[Tensor | None]) -> list[int]:
    """The rows of a table of tasks."""
    rows: list[int] = []
    for number, fields in tasks:
        tensor = tensors[number]
        assert tensor is not None
        rows += [tensor.data_ptr(), KINDS.get(tensor.dtype, 0), *fields]
    return rows or [0]
