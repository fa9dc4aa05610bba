"""Which parameters a remedy acts on: those of a module that learn, or the ones that are given."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

ModuleOrParameters = nn.Module | Iterable[Tensor]


def chosen(given: ModuleOrParameters, taker: str) -> tuple[list[str], list[Tensor]]:
    """Names and parameters: of a module those that require a gradient, or just the given ones.

    Raises:
        TypeError: neither a module nor a list of tensors.
        ValueError: none at all, one given twice, or one that is lazy, frozen or not of real floating point.
    """
    if isinstance(given, nn.Module):
        named: list[tuple[str, Any]] = [(n, p) for n, p in given.named_parameters() if is_lazy(p) or p.requires_grad]
        if not named:
            raise ValueError(f"{taker} found no parameter that requires a gradient in this {type(given).__name__}")
    elif isinstance(given, Tensor) or not isinstance(given, Iterable):
        raise TypeError(f"{taker} takes a module or a list of parameters, got {type(given).__name__}")
    else:
        named = [(str(i), p) for i, p in enumerate(given)]
        if not named:
            raise ValueError(f"{taker} was given an empty list of parameters (a generator that was used up?)")
    names, parameters = [name for name, _ in named], [parameter for _, parameter in named]
    for name, parameter in named:
        _check(name, parameter, taker)
    if len({id(p) for p in parameters}) < len(parameters):
        raise ValueError(f"{taker} was given a parameter twice: it would count twice")
    return names, parameters


def _check(name: str, parameter: Any, taker: str) -> None:
    if not isinstance(parameter, Tensor):
        raise TypeError(f"{taker} takes parameters; number {name} is a {type(parameter).__name__}")
    if is_lazy(parameter):
        raise ValueError(f"parameter {name} is lazy and has no values yet: run one forward before building {taker}")
    if not parameter.is_floating_point():
        raise ValueError(f"parameter {name} is of {parameter.dtype}; {taker} takes real floating-point ones")
    if not parameter.requires_grad:
        raise ValueError(f"parameter {name} is frozen (requires_grad=False): leave it out of the list")


def number(name: str, value: Any) -> float:
    """Refuse what is not a finite number >= 0."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    return float(value)


def check_saved(state_dict: Any, keys: Iterable[str], taker: str) -> None:
    """Refuse a saved state that is not ``taker``'s."""
    wanted = {"version", *keys}
    if not isinstance(state_dict, dict) or set(state_dict) != wanted:
        got = ", ".join(sorted(map(str, state_dict))) if isinstance(state_dict, dict) else type(state_dict).__name__
        raise ValueError(f"state_dict is not one of {taker}: it must hold {', '.join(sorted(wanted))}, got {got}")
    if state_dict["version"] != STATE_VERSION:
        raise ValueError(f"state_dict has version {state_dict['version']!r}; this gnt reads version {STATE_VERSION}")


def check_shapes(saved: Any, parameters: Iterable[Tensor], names: Iterable[str]) -> None:
    """Refuse saved tensors that are not of these parameters' shapes."""
    mine = [(name, tuple(p.shape)) for name, p in zip(names, parameters, strict=True)]
    if not isinstance(saved, (list, tuple)) or len(saved) != len(mine):
        got = f"{len(saved)} tensors" if isinstance(saved, (list, tuple)) else type(saved).__name__
        raise ValueError(f"state_dict must hold {len(mine)} tensors, one for each parameter, got {got}")
    for (name, shape), tensor in zip(mine, saved, strict=True):
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            what = str(tuple(tensor.shape)) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"state_dict is of another network: parameter {name} has shape {shape}, got {what}")


STATE_VERSION = 1


def wide(parameters: Iterable[Tensor]) -> torch.dtype:
    """Float32, or wider where a parameter is."""
    dtype = torch.float32
    for parameter in parameters:
        dtype = torch.promote_types(dtype, parameter.dtype)
    return dtype
