"""Checks of tensors given to metrics. Errors name the argument, what was passed, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from gnt._utils.validation import check_real, finite_number
from gnt.learners import IGNORED_TARGET
from gnt.metrics._numerics import at_least_float32, full_tensor

_FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_floating(name: str, value: Any) -> Tensor:
    """Return ``value``.

    Raises:
        TypeError: not a tensor.
        ValueError: not of a real floating-point dtype.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in _FLOAT_DTYPES:
        raise ValueError(f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}")
    return value


def check_finite(name: str, tensor: Tensor) -> Tensor:
    """Return ``tensor``, or raise FloatingPointError if it holds NaN or infinite values."""
    if not torch.isfinite(tensor).all():
        count = int((~torch.isfinite(tensor)).sum())
        raise FloatingPointError(f"{name} must be finite, got {count} of {tensor.numel()} values that are not")
    return tensor


def checked_features(value: Any, unit_dim: Any = 1) -> Tensor:
    """Return ``features`` as (samples, units, ...), detached, in float32 or wider.

    If the units are in another dimension than 1, all positions in the others are samples: (samples, units).

    Raises:
        TypeError: not a tensor, or a ``unit_dim`` that is not an integer.
        ValueError: not of a real floating-point dtype, fewer than two dimensions, no samples, no units, or a
            ``unit_dim`` that is not one of the dimensions after the first.
        FloatingPointError: NaN or infinite values.
    """
    tensor = check_floating("features", value)
    if tensor.ndim < 2 or not tensor.numel():
        raise ValueError(
            "features must have shape (samples, units) or (samples, channels, *size), with at least one of each, got "
            f"{tuple(tensor.shape)}"
        )
    if not isinstance(unit_dim, Integral) or isinstance(unit_dim, bool):
        raise TypeError(f"unit_dim must be an integer, got {unit_dim!r}")
    if not 1 <= (dim := int(unit_dim) + tensor.ndim * (unit_dim < 0)) < tensor.ndim:
        raise ValueError(
            f"unit_dim must be a dimension of features after the first, which holds the samples, got {unit_dim} for "
            f"shape {tuple(tensor.shape)}"
        )
    tensor = check_finite("features", at_least_float32(tensor))
    return tensor if dim == 1 else tensor.movedim(dim, -1).flatten(0, -2)


def checked_number(name: str, value: Any, *, exclusive: bool = False) -> float:
    """Return a finite number >= 0 (> 0 if ``exclusive``) as a float.

    Raises:
        TypeError: not a real number.
        ValueError: out of range.
    """
    check_real(**{name: value})
    return finite_number(name, value, exclusive=exclusive)


def checked_parameters(name: str, given: Any) -> list[Tensor]:
    """Return the tensors of a module (each parameter once), of an iterable, or a single tensor as a list.

    Raises:
        TypeError: not a module, a tensor, or an iterable of tensors.
        ValueError: no values, a lazy parameter, or a tensor that is not of a real floating-point dtype.
    """
    if isinstance(given, nn.Module):
        tensors: list[Any] = list(given.parameters())
    elif isinstance(given, Tensor):
        tensors = [given]
    elif isinstance(given, Iterable) and not isinstance(given, (str, bytes, dict)):
        tensors = list(given)
    else:
        raise TypeError(f"{name} must be a module, a tensor or tensors, got {type(given).__name__}")
    for i, tensor in enumerate(tensors):
        if isinstance(tensor, UninitializedParameter):
            raise ValueError(f"{name}[{i}] is lazy and has no values yet: run one forward first")
        check_floating(f"{name}[{i}]", tensor)
    if not sum(tensor.numel() for tensor in tensors):
        raise ValueError(f"{name} must hold at least one value, got {len(tensors)} tensors without values")
    return tensors


def checked_predictions(output: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Return outputs (..., classes) and class targets (...), detached and unsharded, of samples that are not ignored.

    Raises:
        TypeError: not tensors.
        ValueError: dtypes or shapes that do not match, no samples, or targets outside 0..classes - 1 that are not -100.
        FloatingPointError: ``output`` holds NaN or infinite values.
    """
    output = check_finite("output", full_tensor(check_floating("output", output).detach()))
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor, got {type(target).__name__}")
    target = full_tensor(target.detach())
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"target must hold classes as integers, got {target.dtype}")
    if output.ndim < 1 or output.shape[-1] < 2 or target.shape != output.shape[:-1]:
        raise ValueError(
            "output must have shape (..., classes) with at least 2 classes and target shape (...), got "
            f"{tuple(output.shape)} and {tuple(target.shape)}"
        )
    if not target.numel():
        raise ValueError(f"target must hold at least one sample, got shape {tuple(target.shape)}")
    low, high = (int(bound) for bound in target.aminmax())
    if low == IGNORED_TARGET:
        kept = target != IGNORED_TARGET
        output, target = output[kept], target[kept]
        if not target.numel():
            raise ValueError(f"target must hold at least one sample that is not ignored, got {IGNORED_TARGET} for all")
        low, high = (int(bound) for bound in target.aminmax())
    if low < 0 or high >= output.shape[-1]:
        raise ValueError(f"target must hold classes in 0..{output.shape[-1] - 1}, got {low}..{high}")
    return output, target
