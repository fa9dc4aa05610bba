"""Mean magnitudes of a slot's weights, or of their gradients, by a C kernel that reads them once."""

from __future__ import annotations

from array import array

import torch
from torch import Tensor, nn

from gnt._kernels import SCALARS, is_readable, load
from gnt.units import Slot

_CHUNK_ROWS = 64  # number of rows that the kernel sums together
_NUMBERS = array("d", [0.0, 0.0])  # what the kernel needs for features


def mean_magnitude(slot: Slot, tensor: Tensor, *, kernels: bool) -> Tensor:
    """`Slot.mean_magnitude`, by the kernel where it can read the tensor.

    Args:
        slot: the slot.
        tensor: its weight, or a tensor shaped and placed like it.
        kernels: use the kernel.
    """
    if not kernels or not _can_read(slot, tensor):
        return slot.mean_magnitude(tensor)
    groups, columns, inner = slot.groups, tensor.shape[1], tensor.shape[2:].numel()
    rows = tensor.shape[0] // groups
    means = tensor.new_empty(rows if slot.dim == 0 else groups * columns)
    scratch = means.new_empty(0 if slot.dim == 0 else groups * -(-rows // _CHUNK_ROWS) * columns)
    outputs = (means.data_ptr(), 0) if slot.dim == 0 else (0, means.data_ptr())
    weight = array("q", [tensor.data_ptr(), *outputs, groups, rows, columns, inner, 0])
    addresses = 0, weight.buffer_info()[0], _NUMBERS.buffer_info()[0], scratch.data_ptr()
    load("unit_statistics", tensor.dtype)(*addresses, 0, 1, 0, 0, torch.get_num_threads())
    return slot.of_units(means, 0)


def _can_read(slot: Slot, tensor: Tensor) -> bool:
    """True for plain matrices and kernels of convolutions in memory that the kernel can read."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype in SCALARS
        and tensor.ndim > 1
        and tensor.numel() > 0
        and (slot.dim == 1 or (slot.dim == 0 and slot.groups == 1))
        and is_readable(tensor, tensor.dtype)
    )
