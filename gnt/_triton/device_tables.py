"""Tables of whole numbers (addresses, sizes) on a device, for kernels that process many tensors in one launch.

The addresses of gradients and features change from step to step, but since torch's allocator reuses memory they repeat
after a few steps. So tables are kept, by a key, and a step of a loop that has run for a while uploads none.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

_KEPT = 32  # tables
_NOTHING: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


def is_capturing(device: torch.device) -> bool:
    """True while a CUDA graph is captured on the current stream."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which Triton kernels are launched on this device."""
    if device.type != "cuda" or torch.cuda.current_device() == device.index:
        return _NOTHING
    return torch.cuda.device(device)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on the device, without synchronization."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class DeviceTables:
    """int64 tensors on a device, kept by a key; no call synchronizes.

    A table that was used while a CUDA graph was captured is kept for ever, because replays read it.

    Args:
        device: where the tables are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._captured: list[Tensor] = []

    def table(self, key: Hashable, numbers: Callable[[], Sequence[int]]) -> Tensor:
        """The table of a key: a tensor that begins with its numbers. It must not be written to.

        Args:
            key: determines the numbers.
            numbers: called for a key that is not known.
        """
        capturing = is_capturing(self._device)
        found = self._kept.get(key)
        if found is not None:
            if capturing:
                self._captured.append(found)
            else:
                self._kept.move_to_end(key)
            return found
        if capturing:
            from gnt._triton.table_writes import padded_size, write_numbers

            values = numbers()
            found = torch.empty(padded_size(len(values)), dtype=torch.int64, device=self._device)
            with on_device(self._device):
                write_numbers(found, values)
            self._captured.append(found)
            return found
        found = upload(torch.tensor(numbers(), dtype=torch.int64, device="cpu"), self._device)
        self._kept[key] = found
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found
