"""The step of all parameters of a group as one call of the C kernel ``gnt/_kernels/adam.c``.

The kernel takes memory addresses. They are looked up once, and checked before each step.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from gnt._kernels import SCALARS, PlacedTensors, ReadableGradients, load
from gnt.importance import WeightMeans
from gnt.optim._adam.bias_correction import correction_table
from gnt.optim._adam.state import MOMENTS, Group, State, is_plain_tensor, moment_keys, share_step_counts
from gnt.optim._adam.step_counts import START_KEYS, row_dim
from gnt.optim._options import beta_values, can_change

_OPTIONS = itemgetter("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize")
_NO_TABLE = torch.empty(0, dtype=torch.float64, device="cpu")
_CHUNK_ROWS = 64  # number of rows that the kernel sums together
_FIELDS = 14  # number of integers in the kernel's record of a parameter
_TABLE_LENGTH = 1 << 17  # larger counts are rare: the kernel computes their corrections itself


def kernel_can_step(param: Tensor, state: State) -> bool:
    """True for contiguous float32 and float64 parameters on the CPU whose moments have the same dtype and layout."""
    moments = [state[key] for key in MOMENTS if key in state]
    return (
        is_plain_tensor(param)
        and param.is_cpu
        and param.dtype in SCALARS
        and all(m.is_cpu and m.dtype == param.dtype and m.shape == param.shape for m in moments)
        and all(tensor.is_contiguous() for tensor in (param, *moments))
    )


class KernelStep:
    """Steps parameters of one dtype by the C kernel, whether or not units of them were reset."""

    def __init__(self, params: Sequence[Tensor], states: Sequence[State], group: Group) -> None:
        self._params = list(params)
        self._kernel = load("adam", params[0].dtype)
        self._counts = share_step_counts(states)
        keys = moment_keys(group["amsgrad"])
        self._tensors = [
            tensor for p, s in zip(params, states, strict=True) for tensor in (p, *(s[key] for key in keys))
        ]
        starts = [state[key] for state in states for key in START_KEYS if key in state]
        self._placed = PlacedTensors([*self._tensors, *starts, self._counts])
        self._gradients = ReadableGradients(self._params)
        fields = [_layout(p, s, keys) for p, s in zip(params, states, strict=True)]
        self._layout = array("q", chain.from_iterable(fields))
        self._grad_addresses = array("q", bytes(8 * len(params)))
        self._tensor_arguments = *(
            numbers.buffer_info()[0] for numbers in (self._layout, self._grad_addresses)
        ), self._counts.data_ptr()  # fmt: skip
        self._reserve_scratch()
        self._with_means: list[tuple[Tensor, WeightMeans]] = []
        self._options: tuple[Any, ...] | None = None
        self._option_tensors: list[Tensor] = []  # whose addresses are among the arguments
        self._option_arguments: tuple[int, ...]
        self._betas: tuple[float, float] | None = None

    def write_weight_means(self, weight_means: Mapping[int, WeightMeans]) -> None:
        """Let the kernel write means of |p| to these tensors, by the parameter's id."""
        for i, param in enumerate(self._params):
            means = weight_means.get(id(param))
            if means is not None and means.can_hold(param):
                addresses = [0 if m is None else m.data_ptr() for m in (means.rows, means.columns)]
                fields = array("q", [*addresses, param.shape[0] // means.groups])
                self._layout[(i + 1) * _FIELDS - len(fields) : (i + 1) * _FIELDS] = fields
                self._with_means.append((param, means))
        self._reserve_scratch()

    def _reserve_scratch(self) -> None:
        """Reserve the memory that the kernel needs for intermediate results."""
        sizes = [0]
        for i in range(len(self._params)):
            (*_, column_start, rows, elements, inner, columns, _, _, column_means, averaged) = self._fields(i)
            factors = 2 * columns * inner if column_start else 0
            sums = rows // averaged * -(-averaged // _CHUNK_ROWS) * elements if column_means else 0
            sizes.append(factors + sums)
        self._scratch = self._params[0].new_empty(max(sizes))

    def _fields(self, i: int) -> array[int]:
        return self._layout[i * _FIELDS : (i + 1) * _FIELDS]

    def is_valid(self) -> bool:
        """True if parameters and states have the same addresses and layouts as before."""
        return self._placed.unchanged()

    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """Take one step on each parameter. The gradients are in the same order."""
        grads, addresses = self._gradients.read(grads), self._grad_addresses
        for i, grad in enumerate(grads):
            addresses[i] = grad.data_ptr()
        options = _OPTIONS(group)
        if options != self._options:
            self._set_options(options, group)
        self._kernel(*self._tensor_arguments, *self._option_arguments, torch.get_num_threads())
        increment_version(self._params)  # as torch's in-place operations do, so that autograd refuses stale values
        for param, means in self._with_means:
            means.mark_current(param)

    def _set_options(self, options: tuple[Any, ...], group: Group) -> None:
        """Convert the options of the group to arguments of the kernel, when they have changed.

        A decay rate gets a table of corrections from the second step in a row on: making one takes as long as many
        steps, which a schedule that changes the rate in each step would pay each time. The kernel computes what it has
        no table for, with the same result.
        """
        lr, _, eps, weight_decay, decoupled, maximize = options
        beta1, beta2 = beta_values(group)
        numbers = torch.tensor([float(lr), beta1, beta2, eps, weight_decay], dtype=torch.float64, device="cpu")
        flags = bool(decoupled) + 2 * bool(group["amsgrad"]) + 4 * bool(maximize)
        before1, before2 = self._betas or (None, None)
        bias1 = correction_table(beta1, 1.0, _TABLE_LENGTH) if beta1 == before1 else _NO_TABLE
        root2 = correction_table(beta2, 0.5, _TABLE_LENGTH) if beta2 == before2 else _NO_TABLE
        self._option_tensors = [numbers, bias1, root2]
        self._option_arguments = (
            *(tensor.data_ptr() for tensor in (numbers, bias1, root2, self._scratch)),
            len(bias1),
            len(root2),
            len(self._params),
            flags,
        )
        settled = self._betas == (beta1, beta2) and not any(map(can_change, options))
        self._options = options if settled else None
        self._betas = beta1, beta2


def _layout(param: Tensor, state: State, keys: Sequence[str]) -> list[int]:
    """The fields of one parameter in the kernel's ``layout`` argument, which ``adam.c`` describes."""
    moments = [state[key].data_ptr() for key in keys]
    row, column = (state[key].data_ptr() if key in state else 0 for key in START_KEYS)
    tensors = [param.data_ptr(), *moments, *([0] if len(keys) == 2 else [])]
    size = param.numel()
    if param.dim() < 2 or (row and row_dim(param.shape, state[START_KEYS[0]])):  # one row, each element is a unit
        return [*tensors, 0, row, 1, size, 1, size, 1, 0, 0, 1]
    rows, per_row = param.shape[0], size // max(param.shape[0], 1)
    columns = state[START_KEYS[1]].numel() if column else param.shape[1]
    groups = columns // max(param.shape[1], 1)
    inner = per_row // max(param.shape[1], 1)
    return [*tensors, row, column, rows, per_row, inner, columns, rows // max(groups, 1), 0, 0, rows]
