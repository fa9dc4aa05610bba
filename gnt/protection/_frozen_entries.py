"""Entries of parameters that keep their values, bit by bit, whatever an optimizer does."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from gnt._kernels import SCALARS, PlacedTensors, is_readable, load, use_kernels

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class FrozenEntries:
    """Values of some entries of a tensor, which are written back bit by bit.

    Args:
        value: the tensor with its present values.
        frozen: which entries, broadcastable to it.
    """

    def __init__(self, value: Tensor, frozen: Tensor) -> None:
        self._kind = value.dtype, value.device
        self._rows: Tensor | None = None
        self._kept: Tensor | None = None
        self._whole = frozen.numel() == 1
        if self._whole:
            self._held = value.clone()
            return
        if frozen.ndim > 1 and frozen.numel() == len(value) and frozen.shape[0] == len(value):
            self._rows = frozen.flatten().nonzero().squeeze(1)
            self._held = value[self._rows]
            return
        self._hold_bits(value, frozen)

    def _hold_bits(self, value: Tensor, frozen: Tensor) -> None:
        """Hold the bits of the entries, and the bits of the tensor that stay."""
        integers = _INTEGERS[value.element_size()]
        self._kept = torch.where(frozen, 0, -1).to(integers).contiguous()  # bits that the optimizer's value keeps
        self._held = torch.where(frozen, value.contiguous().view(integers), 0).to(integers)
        if frozen.ndim > 1 and frozen.is_cpu:
            self._some = frozen.flatten(1).any(1).nonzero().squeeze(1)  # rows with such entries

    def fits(self, value: Tensor) -> bool:
        """True if the tensor has the dtype and device with which the values were kept."""
        return (value.dtype, value.device) == self._kind

    def follow(self, value: Tensor) -> None:
        """Convert the values as the tensor was converted, if its dtype or device is another one."""
        if self.fits(value):
            return
        dtype, device = value.dtype, value.device
        if self._kept is not None:
            held = self._held.view(self._kind[0]).to(device, dtype)
            self._hold_bits(held, (self._kept == 0).to(device))
        else:
            self._held = self._held.to(device, dtype)
            self._rows = None if self._rows is None else self._rows.to(device)
        self._kind = dtype, device

    def restore(self, value: Tensor) -> None:
        """Write them into the tensor."""
        self.follow(value)
        if self._kept is not None:
            # integer operations: exact for any value, and several times as fast as torch.where on the CPU
            value.view(self._held.dtype).bitwise_and_(self._kept).bitwise_or_(self._held)
        elif self._rows is not None:
            value.index_copy_(0, self._rows, self._held)
        else:
            value.copy_(self._held)

    def layout(self, value: Tensor) -> tuple[list[int], list[Tensor]] | None:
        """The fields of a contiguous tensor as ``restore.c`` describes them, and the tensors whose addresses they have.

        None: the kernel cannot do it.
        """
        if self._kept is not None and self._kept.shape != value.shape:
            return None
        by_row = self._rows is not None or (self._kept is not None and value.ndim > 1)
        rows = torch.zeros(1, dtype=torch.int64, device="cpu") if self._rows is None else self._rows
        if by_row and self._kept is not None:
            rows = self._some
        held = self._held.contiguous()
        addresses = [value.data_ptr(), held.data_ptr(), 0 if self._kept is None else self._kept.data_ptr()]
        size = value.shape[1:].numel() if by_row else value.numel()
        return [*addresses, rows.data_ptr(), len(rows), size], [held, rows]


class RestoredParameters:
    """Parameters of which some entries are written back: by one call of a kernel where that is possible.

    Args:
        parameters: the parameters.
        frozen: the entries of each.
    """

    def __init__(self, parameters: Sequence[Tensor], frozen: Sequence[FrozenEntries]) -> None:
        self._pairs = list(zip(parameters, frozen, strict=True))
        self._placed: PlacedTensors | None = None

    def restore(self) -> None:
        """Write the values back."""
        if self._placed is None or (self._by_kernel and not self._placed.unchanged()):
            self._prepare()
        if self._by_kernel:
            load("restore", self._by_kernel[0].dtype)(self._address, len(self._by_kernel), torch.get_num_threads())
            increment_version(self._by_kernel)
        if self._others:
            with torch.no_grad():
                for parameter, frozen in self._others:
                    frozen.restore(parameter.detach())

    def _prepare(self) -> None:
        """Find the layout of the parameters that the kernel can write."""
        parameters = [parameter for parameter, _ in self._pairs]
        dtype = next((each.dtype for each in parameters if each.dtype in SCALARS), torch.float32)
        self._by_kernel: list[Tensor] = []
        self._others, self._tensors, numbers = [], list[Tensor](), array("q")
        for parameter, frozen in self._pairs:
            plain = type(parameter) is nn.Parameter or type(parameter) is Tensor
            fit = plain and is_readable(parameter, dtype) and use_kernels(None)
            frozen.follow(parameter.detach())
            layout = frozen.layout(parameter.detach()) if fit else None
            if layout is None:
                self._others.append((parameter, frozen))
                continue
            numbers.extend(layout[0])
            self._tensors += layout[1]
            self._by_kernel.append(parameter)
        self._numbers, self._address = numbers, numbers.buffer_info()[0]
        self._placed = PlacedTensors(self._by_kernel)
