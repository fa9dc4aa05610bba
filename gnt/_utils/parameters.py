"""The parameters that a method acts on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

ModuleOrParameters = nn.Module | Iterable[Tensor]


def select_parameters(given: ModuleOrParameters, method: str) -> tuple[list[str], list[Tensor]]:
    """Return names and parameters: those of a module that require a gradient, or the given ones, named by position.

    Raises:
        TypeError: neither a module nor an iterable of tensors.
        ValueError: no parameters, a repeated one, or one that is lazy, frozen or not of a real floating-point dtype.
    """
    if isinstance(given, nn.Module):
        named: list[tuple[str, Any]] = [(n, p) for n, p in given.named_parameters() if is_lazy(p) or p.requires_grad]
        if not named:
            raise ValueError(f"{method} found no parameter that requires a gradient in this {type(given).__name__}")
    elif isinstance(given, Tensor) or not isinstance(given, Iterable):
        raise TypeError(f"{method} takes a module or a list of parameters, got {type(given).__name__}")
    else:
        named = [(str(i), p) for i, p in enumerate(given)]
        if not named:
            raise ValueError(f"{method} was given an empty list of parameters (or a generator that is exhausted)")
    names, parameters = [name for name, _ in named], [parameter for _, parameter in named]
    for name, parameter in named:
        check_parameter(name, parameter, method)
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ValueError(f"{method} was given a parameter twice: it would count twice")
    return names, parameters


def check_parameter(name: str, parameter: Any, method: str) -> None:
    """Raise TypeError or ValueError for a parameter that a method cannot act on."""
    if not isinstance(parameter, Tensor):
        raise TypeError(f"{method} takes parameters; item {name} is of type {type(parameter).__name__}")
    if is_lazy(parameter):
        raise ValueError(f"parameter {name} is lazy and has no values yet: run one forward before building {method}")
    if not parameter.is_floating_point():
        raise ValueError(f"parameter {name} is of {parameter.dtype}; {method} takes real floating-point ones")
    if not parameter.requires_grad:
        raise ValueError(f"parameter {name} is frozen (requires_grad=False): leave it out of the list")


def accumulation_dtype(parameters: Iterable[Tensor]) -> torch.dtype:
    """Return float32, or the widest dtype of the parameters if that is wider."""
    dtype = torch.float32
    for parameter in parameters:
        dtype = torch.promote_types(dtype, parameter.dtype)
    return dtype
