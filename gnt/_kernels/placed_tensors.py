"""A check that tensors are still where and what they were when a kernel was given their addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo.guards import TensorGuards


class PlacedTensors:
    """Tensors with the addresses, sizes, strides, dtypes and devices that they have now.

    The checks run in C++: 12 tensors take about a microsecond. A tensor changes under the same address when its
    ``data`` is replaced by a part of it.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]
        self._match = layout_check(self._tensors)

    def unchanged(self) -> bool:
        """True if all of these are the same for all tensors."""
        if not self._match.check(*self._tensors):
            return False
        return [tensor.data_ptr() for tensor in self._tensors] == self._addresses


def layout_check(tensors: Sequence[Tensor]) -> TensorGuards:
    """An object whose ``check(*tensors)`` is True for tensors of the same types, sizes, strides, dtypes and devices."""
    sizes: Any = [list(tensor.shape) for tensor in tensors]
    strides: Any = [list(tensor.stride()) for tensor in tensors]
    return TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)


def is_readable(tensor: Tensor, dtype: torch.dtype) -> bool:
    """True if the memory of a tensor is its values in order, on the CPU, with this dtype."""
    return tensor.dtype is dtype and tensor.is_cpu and tensor.is_contiguous() and not tensor.is_neg()


def check_gradient(grad: Tensor, param: Tensor) -> None:
    """Raise RuntimeError for a gradient of another shape or device than its parameter, or a complex one of a real one.

    Gradients of another real dtype can be converted.
    """
    if grad.shape != param.shape:
        got, expected = f"shape {tuple(grad.shape)}", f"shape {tuple(param.shape)}"
    elif grad.device != param.device:
        got, expected = f"shape {tuple(grad.shape)} on {grad.device}", f"the same shape on {param.device}"
    elif grad.is_complex() and not param.is_complex():
        got, expected = f"shape {tuple(grad.shape)} and {grad.dtype}", f"the same shape and {param.dtype}"
    else:
        return
    raise RuntimeError(
        f"a gradient of {got} belongs to a parameter of {expected}: the parameter or the gradient was changed after "
        "the backward pass"
    )


class ReadableGradients:
    """Gradients as a kernel can read them: contiguous, on the CPU, with the shapes and the dtype of the parameters."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._params, self._dtype = params, params[0].dtype
        self._check = layout_check(params)  # that of the gradients is known from the first call on

    def read(self, grads: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients, or copies of those that the kernel cannot read.

        Raises RuntimeError for a gradient that does not fit its parameter.
        """
        if self._check.check(*grads):
            return grads
        for grad, param in zip(grads, self._params, strict=True):
            check_gradient(grad, param)
        if all(is_readable(grad, self._dtype) for grad in grads):
            self._check = layout_check(grads)
            return grads
        return [grad.to("cpu", self._dtype).contiguous().resolve_neg() for grad in grads]
