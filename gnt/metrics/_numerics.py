"""Conversions before a metric is computed: whole tensors of sharded ones, wider dtypes, scaling without rounding."""

from __future__ import annotations

import math

from torch import Tensor

from gnt.distributed import dtensor


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as a whole (every process must call this); other tensors are returned as they are."""
    if not dtensor.is_dtensor(tensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return gathered


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor, detached and unsharded, in float32 if its dtype is narrower."""
    tensor = full_tensor(tensor.detach())
    return tensor.float() if tensor.element_size() < 4 else tensor


def to_float64(tensor: Tensor) -> Tensor:
    """Return the tensor, detached and unsharded, in float64, or in float32 on devices without float64."""
    tensor = full_tensor(tensor.detach())
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def scale_to_unit_range(tensor: Tensor, largest: float) -> Tensor:
    """Divide by the smallest power of two above ``largest``, the largest magnitude, without rounding."""
    exponent = math.frexp(largest)[1]
    # two factors, because the inverse of a subnormal number's power of two exceeds the range of float32
    return tensor * 2.0 ** -(exponent // 2) * 2.0 ** -(exponent - exponent // 2)
