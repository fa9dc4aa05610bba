"""The step of parameters on a GPU by the Triton kernels of ``gnt/_triton/adam.py``, in two launches."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from gnt._kernels import PlacedTensors
from gnt._triton import DeviceTables, can_run, on_device, upload
from gnt.optim._adam.state import (
    MOMENTS,
    Group,
    State,
    is_plain_tensor,
    moment_lists,
    share_step_counts,
    step_counts_on_device,
)
from gnt.optim._adam.step_counts import START_KEYS, row_dim
from gnt.optim._options import beta_values

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_MOST_ELEMENTS = 1 << 31


def triton_can_step(param: Tensor, state: State) -> bool:
    """True for a contiguous parameter on a device of Triton, with moments like it."""
    return (
        is_plain_tensor(param)
        and param.dtype in _DTYPES
        and 0 < param.numel() < _MOST_ELEMENTS - (1 << 16)
        and param.is_contiguous()
        and all(
            state[key].dtype is param.dtype and state[key].device == param.device and state[key].is_contiguous()
            for key in MOMENTS
            if key in state
        )
        and can_run(param.device)
    )


class TritonStep:
    """Steps parameters of one device and dtype together.

    The step counts are also kept on the device, where the kernels read and increase them. With ``capturable`` the state
    has these and no others.
    """

    def __init__(self, params: Sequence[Tensor], states: Sequence[State], group: Group, *, capturable: bool) -> None:
        from gnt._triton import adam, unit_statistics

        self._kernels: Any = adam
        self._params, self._device, self._dtype = list(params), params[0].device, params[0].dtype
        self._placed = PlacedTensors(params)
        self._counts: Tensor | None = None
        if capturable:
            self._steps = step_counts_on_device(states, self._device)
        else:
            self._counts = share_step_counts(states)
            self._steps = upload(self._counts.clone(), self._device)
        self._moments = moment_lists(states, group["amsgrad"])
        starts, owners, rows, blocks = self._layout(states)
        self._starts, self._owners = starts, upload(torch.tensor(owners, dtype=torch.int32, device="cpu"), self._device)
        addresses = [each.data_ptr() for each in (*self._params, *(m for each in self._moments for m in each))]
        self._aligned = all(address % 16 == 0 for address in addresses)
        self._rows = upload(torch.tensor(rows, dtype=torch.int64, device="cpu"), self._device)
        self._num_blocks = sum(blocks)
        of_blocks = torch.repeat_interleave(
            torch.arange(len(blocks), dtype=torch.int32, device="cpu"), torch.tensor(blocks, device="cpu")
        )
        self._block_owners = upload(of_blocks, self._device)
        self._scalar = unit_statistics.scalar_type(self._dtype)
        self._element = unit_statistics.element_type(self._dtype)
        like = self._steps.new_empty(len(owners), dtype=torch.promote_types(self._dtype, torch.float32))
        self._step_sizes, self._roots = like, torch.empty_like(like)
        self._gradient_tables, self._option_tables = DeviceTables(self._device), DeviceTables(self._device)

    def _layout(self, states: Sequence[State]) -> tuple[Tensor, list[int], list[list[int]], list[int]]:
        """All starts, the parameter of each count, the kernel's row and the number of blocks of each parameter.

        The starts in the states become views of the first, so that later resets are visible here.
        """
        kernels, count = self._kernels, len(states)
        parts: list[Tensor] = []
        places: list[tuple[State, str]] = []
        owners, at = list(range(count)), 0
        rows: list[list[int]] = []
        blocks: list[int] = []
        for i, (param, state) in enumerate(zip(self._params, states, strict=True)):
            shape = param.shape
            rows_of, inner = shape[0] if shape else 1, shape[2:].numel() if len(shape) > 2 else 1
            row_length, columns = param.numel() // rows_of, shape[1] if len(shape) > 1 else 1
            first, groups = [-1, -1], 1
            for number, key in enumerate(START_KEYS):
                if key not in state:
                    continue
                start = state[key]
                if number == 0 and row_dim(shape, start) > 0:
                    row_length, rows_of = 1, param.numel()
                if number == 1:
                    groups = start.numel() // columns
                first[number], at = at, at + start.numel()
                parts.append(start)
                places.append((state, key))
                owners += [i] * start.numel()
            addresses = [param.data_ptr(), *(moments[i].data_ptr() for moments in self._moments)]
            addresses += [0] * (4 - len(addresses))
            rows.append(
                [*addresses, param.numel(), row_length, inner, columns, max(1, rows_of // groups), *first, sum(blocks)]
            )
            blocks.append(-(-param.numel() // kernels.BLOCK))
        if not parts:
            return torch.zeros(1, dtype=torch.int64, device=self._device), owners, rows, blocks
        starts = torch.cat(parts)
        for (state, key), view in zip(places, torch.split(starts, [part.numel() for part in parts]), strict=True):
            state[key] = view
        return starts, owners, rows, blocks

    def is_valid(self) -> bool:
        """True if the parameters are still at the same addresses."""
        return self._placed.unchanged()

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """Take one step on each parameter. The gradients are in the same order."""
        grads = [grad if grad.is_contiguous() else grad.contiguous() for grad in grads]
        addresses = tuple(grad.data_ptr() for grad in grads)
        aligned = self._aligned and all(address % 16 == 0 for address in addresses)
        gradients = self._gradient_tables.table(addresses, lambda: addresses)
        options, lr = self._options(group)
        kernels, num_params, num_counts = self._kernels, len(self._params), len(self._owners)
        sizes = self._step_sizes, self._roots
        decay = group["weight_decay"] != 0
        with on_device(self._device):
            kernels.corrections[(-(-num_counts // 128),)](
                self._steps, self._starts, self._owners, num_params, num_counts - num_params, options, lr, *sizes, 128
            )
            kernels.adam[(self._num_blocks,)](
                self._rows, gradients, self._block_owners, options, lr, *sizes, self._steps, num_params,
                kernels.FIELDS, self._element, self._scalar, aligned, bool(group["amsgrad"]), bool(group["maximize"]),
                decay, bool(group["decoupled_weight_decay"]), kernels.BLOCK,
            )  # fmt: skip
        if self._counts is not None:
            self._counts.add_(1.0)
        increment_version(self._params)

    def _options(self, group: Group) -> tuple[Tensor, Tensor]:
        """The options of the group and its step size on the device, float64 unless the step size is a tensor there."""
        beta1, beta2 = beta_values(group)
        lr = group["lr"]
        on_this_device = isinstance(lr, Tensor) and lr.device == self._device
        rate = 0.0 if on_this_device else float(lr)
        numbers = (beta1, beta2, group["eps"], float(group["weight_decay"]), rate)

        def bits() -> list[int]:
            logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
            values = [beta1, beta2, *logs, *numbers[2:]]
            return [struct.unpack("q", struct.pack("d", value))[0] for value in values]

        table = self._option_tables.table(numbers, bits).view(torch.float64)
        return table, lr.detach() if on_this_device else table[self._kernels.OPTIONS :]
