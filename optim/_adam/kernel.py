"""The step as one call of a C++ kernel, for all parameters of a group: ``gnt/kernels/adam.cpp``.

What the kernel is told about a parameter are addresses, which are looked up once. Whether the tensors still lie there
is asked before each step.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from gnt import _kernels as kernels
from gnt.optim._adam.state import MOMENTS, Group, State, counted_together, is_plain
from gnt.optim._adam.step_counts import START_KEYS, tables

if TYPE_CHECKING:
    from gnt.importance import WeightMeans

_LONGEST_TABLE = 1 << 17  # counts beyond it are rare; the kernel computes their corrections itself


def can_step(param: Tensor, state: State) -> bool:
    """Whether the kernel is for this parameter: a contiguous float32 or float64 one on the CPU, and moments alike."""
    moments = [state[key] for key in MOMENTS if key in state]
    return (
        is_plain(param)
        and param.is_cpu
        and param.dtype in kernels.SCALARS
        and all(m.is_cpu and m.dtype == param.dtype and m.shape == param.shape for m in moments)
        and all(tensor.is_contiguous() for tensor in (param, *moments))
    )


class Compiled:
    """Parameters of one dtype that the kernel steps, reset or not."""

    def __init__(self, params: Sequence[Tensor], states: Sequence[State], group: Group) -> None:
        self._params, self._dtype = list(params), params[0].dtype
        self._kernel = kernels.load("adam", self._dtype)
        self._counts = counted_together(states)
        keys = MOMENTS if group["amsgrad"] else MOMENTS[:2]
        self._tensors = [
            tensor for p, s in zip(params, states, strict=True) for tensor in (p, *(s[key] for key in keys))
        ]
        self._at = [tensor.data_ptr() for tensor in self._tensors]
        self._starts = [state[key] for state in states for key in START_KEYS if key in state]  # held, for the kernel
        self._layout = torch.tensor([_layout(p, s, keys) for p, s in zip(params, states, strict=True)])
        addresses = array("q", bytes(8 * len(params)))
        self._addresses, self._grads_at = addresses, torch.frombuffer(addresses, dtype=torch.int64)
        self._wanted: list[tuple[Tensor, WeightMeans]] = []
        self._options: tuple[Any, ...] | None = None
        self._numbers: tuple[Tensor, Tensor, Tensor, int, int]

    def sum_into(self, places: Mapping[int, WeightMeans]) -> None:
        """Let the kernel put means of |p| where they are wanted, by the parameter's id."""
        self._wanted = [(param, places[id(param)]) for param in self._params if id(param) in places]
        for i, param in enumerate(self._params):
            if id(param) in places:
                place = places[id(param)]
                means = [0 if m is None else m.data_ptr() for m in (place.rows, place.columns)]
                self._layout[i, -2:] = torch.tensor(means)

    def fits(self) -> bool:
        """Whether everything still lies where it lay."""
        at = [tensor.data_ptr() for tensor in self._tensors]
        return at == self._at and all(param.is_contiguous() for param in self._params)

    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """One step on each parameter; the gradients in the same order."""
        laid = []  # until the kernel has read them
        addresses, dtype = self._addresses, self._dtype
        for i, grad in enumerate(grads):
            if grad.dtype is not dtype or not grad.is_contiguous():
                grad = grad.to(dtype).contiguous()
                laid.append(grad)
            addresses[i] = grad.data_ptr()
        options = (
            float(group["lr"]),
            group["betas"],
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            group["maximize"],
        )
        if options != self._options:
            self._read(options, group)
        numbers, bias1, root2, length, flags = self._numbers
        self._kernel(
            self._layout,
            self._grads_at,
            self._counts,
            numbers,
            bias1,
            root2,
            length,
            length,
            len(addresses),
            flags,
            torch.get_num_threads(),
        )
        increment_version(self._params)  # as an operation of torch's would: a backward through old values is refused
        for param, place in self._wanted:
            place.mark_current(param)

    def _read(self, options: tuple[Any, ...], group: Group) -> None:
        """What the kernel is told of the group's options; anew when they change."""
        lr, betas, eps, weight_decay, decoupled, maximize = options
        numbers = torch.tensor([lr, *betas, eps, weight_decay], dtype=torch.float64)
        flags = bool(decoupled) + 2 * bool(group["amsgrad"]) + 4 * bool(maximize)
        bias1, root2 = tables(betas, _LONGEST_TABLE - 1, torch.device("cpu"))
        length = len(bias1)
        self._numbers, self._options = (numbers, bias1, root2, length, flags), options


def _layout(param: Tensor, state: State, keys: Sequence[str]) -> list[int]:
    """One parameter, as the kernel is told: see the top of ``adam.cpp``."""
    moments = [state[key].data_ptr() for key in keys]
    row, column = (state[key].data_ptr() if key in state else 0 for key in START_KEYS)
    tensors = [param.data_ptr(), *moments, *([0] if len(keys) == 2 else [])]
    size = param.numel()
    if param.dim() < 2:  # one row, each of whose elements is a unit
        return [*tensors, 0, row, 1, size, 1, size, 1, 0, 0]
    rows, per_row = param.shape[0], size // max(param.shape[0], 1)
    columns = state["column_start"].numel() if column else param.shape[1]
    groups = columns // max(param.shape[1], 1)
    inner = per_row // max(param.shape[1], 1)
    return [*tensors, row, column, rows, per_row, inner, columns, rows // max(groups, 1), 0, 0]
