"""What a model returns, as a list of tensors: torch.export takes no dataclasses and distributions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


def flat_output(module: nn.Module, args: Any, output: Any) -> list[Tensor]:
    """A forward hook: all tensors in what a module returns, however deep, each once."""
    return list(_tensors(output, set()))


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if id(value) in seen or isinstance(value, (nn.Module, type, str, bytes)):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for held in value.values():
            yield from _tensors(held, seen)
    elif isinstance(value, (list, tuple, set)):
        for held in value:
            yield from _tensors(held, seen)
    else:
        slots = [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
        for held in (*getattr(value, "__dict__", {}).values(), *slots):
            yield from _tensors(held, seen)
