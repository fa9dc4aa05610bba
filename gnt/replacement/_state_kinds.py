"""Test whether the tensors of an optimizer's state can be changed for single units."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gnt.distributed import dtensor

_PLAIN_TYPES = {torch.Tensor, nn.Parameter, getattr(nn, "Buffer", nn.Parameter)}
_PLAIN_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128}


def is_plain(tensor: Tensor) -> bool:
    """True for a common tensor, to which all operations apply."""
    return (
        type(tensor) in _PLAIN_TYPES
        and tensor.dtype in _PLAIN_DTYPES
        and tensor.layout is torch.strided
        and not tensor.is_inference()
        and tensor.is_contiguous()
    )


class WritableKinds:
    """Kinds of tensors for which an operation on single units was found to work or to fail."""

    def __init__(self) -> None:
        self._problems: dict[tuple[object, ...], str | None] = {}

    def problem(self, tensor: Tensor, operation: str, change: Callable[[Tensor], None]) -> str | None:
        """Why ``change`` cannot be applied to a tensor like this; None if it can be.

        Args:
            tensor: part of the state; it is not changed.
            operation: name of ``change``, for kinds that were tried before.
            change: writes to a tensor of the same shape. It is tried once for each kind of tensor, on a copy.
        """
        local = dtensor.local_part(tensor)
        plain = type(local) in _PLAIN_TYPES and local.layout is torch.strided
        if plain and local.is_inference() and not torch.is_inference_mode_enabled():
            return "it was made in inference mode"
        if plain and any(size > 1 and not stride for size, stride in zip(local.shape, local.stride(), strict=True)):
            return "it is expanded: several elements share one place in memory"
        if plain and local.dtype in _PLAIN_DTYPES:
            return None
        kind = (operation, type(tensor), type(local), local.layout, local.dtype, local.device.type, local.ndim)
        if kind not in self._problems:
            self._problems[kind] = _try(tensor, change)
        return self._problems[kind]


def _try(tensor: Tensor, change: Callable[[Tensor], None]) -> str | None:
    try:
        with torch.no_grad():
            change(tensor.detach().clone())
    except Exception as error:  # any: a tensor subclass may raise what it likes
        text = str(error).strip().partition("\n")[0][:200]
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return None
