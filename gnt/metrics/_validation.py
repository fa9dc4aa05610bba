"""What is refused at the metrics' door: each argument by its name, with what came and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from gnt.distributed import _dtensor as shards

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def features(value: Any) -> Tensor:
    """``features`` as a detached tensor of (samples, units, ...) in float32 or wider.

    Raises:
        TypeError: no tensor.
        ValueError: not of real floating point, fewer than two dimensions, no samples, or no units.
        FloatingPointError: not finite.
    """
    tensor = floating("features", value)
    if tensor.ndim < 2 or not tensor.numel():
        raise ValueError(
            "features must have shape (samples, units) or (samples, channels, *size), with at least one of each, got "
            f"{tuple(tensor.shape)}"
        )
    return finite("features", widened(tensor))


def widened(tensor: Tensor) -> Tensor:
    """In float32 where it is narrower; detached, and the whole of what lies in shards."""
    tensor = whole(tensor.detach())
    return tensor.float() if tensor.element_size() < 4 else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that lies in parts on several processes; each of them must ask."""
    if not shards.is_sharded(tensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return gathered


def double(tensor: Tensor) -> Tensor:
    """In float64 where the device has it, else in float32."""
    tensor = whole(tensor.detach())
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def scaled(tensor: Tensor, largest: float) -> Tensor:
    """Divided by the power of two just above ``largest``, which loses nothing, so that the largest magnitude is at most
    1; in two steps, since of a subnormal number that power's inverse is beyond float32.
    """
    exponent = math.frexp(largest)[1]
    return tensor * 2.0 ** -(exponent // 2) * 2.0 ** -(exponent - exponent // 2)


def finite(name: str, tensor: Tensor) -> Tensor:
    """Refuse what is not finite: a figure of it would be noise, or NaN in a log for ever."""
    if not torch.isfinite(tensor).all():
        count = int((~torch.isfinite(tensor)).sum())
        raise FloatingPointError(f"{name} must be finite, got {count} of {tensor.numel()} values that are not")
    return tensor


def parameters(name: str, given: Any) -> list[Tensor]:
    """Tensors of a module (each parameter once), of a list, or one tensor.

    Raises:
        TypeError: anything else.
        ValueError: none, tensors that are not of real floating point, or no values at all.
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
        floating(f"{name}[{i}]", tensor)
    if not sum(tensor.numel() for tensor in tensors):
        raise ValueError(f"{name} must hold at least one value, got {len(tensors)} tensors without any")
    return tensors


def floating(name: str, value: Any) -> Tensor:
    """Refuse what is no tensor of real floating point."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in _FLOATS:
        raise ValueError(f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}")
    return value


def number(name: str, value: Any, *, above: float, least: bool, most: float = math.inf) -> float:
    """A finite real number in [above, most], or, unless ``least``, in (above, most].

    Raises:
        TypeError: no number.
        ValueError: out of range.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    real = float(value)
    if not math.isfinite(real) or real > most or not (real >= above if least else real > above):
        low = f"{'>=' if least else '>'} {above:g}"
        high = f" and <= {most:g}" if math.isfinite(most) else ""
        raise ValueError(f"{name} must be a finite number {low}{high}, got {value!r}")
    return real


def predictions(output: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Outputs (..., classes) and class targets (...), detached.

    Raises:
        TypeError: no tensors.
        ValueError: dtypes or shapes that do not fit, no samples, targets that are no class.
        FloatingPointError: ``output`` is not finite.
    """
    output = finite("output", whole(floating("output", output).detach()))
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor, got {type(target).__name__}")
    target = whole(target.detach())
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
    if low < 0 or high >= output.shape[-1]:
        raise ValueError(f"target must hold classes in 0..{output.shape[-1] - 1}, got {low}..{high}")
    return output, target
