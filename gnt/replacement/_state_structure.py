"""Search of an optimizer's state, and of the attributes of an optimizer, for tensors and for inner optimizers."""

from __future__ import annotations

import functools
import numbers
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Path = tuple[Any, ...]  # keys and names of attributes (str), positions (int)

_SEQUENCES = (list, tuple, deque, set, frozenset)
_WITHOUT_PARTS = (
    *(str, bytes, bytearray, numbers.Number, Enum, type, types.ModuleType, types.BuiltinFunctionType, range, slice),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Generator, weakref.ref, type(None)),
)
_OWN_ATTRIBUTES = ("state", "param_groups", "defaults")  # of every optimizer; with those that begin with _optimizer_


def path_name(path: Path) -> str:
    """A path as it is written in a table: keys, attributes and positions joined by dots."""
    return ".".join(map(str, path))


def find_entry(path: Path, table: Mapping[str, Any]) -> Any:
    """The key of ``table`` for the longest beginning of ``path``, positions also as ``*``; None if there is none."""
    if len(path) == 1:
        return path[0] if path[0] in table else None
    for length in range(len(path), 0, -1):
        for positions in (False, True):
            name = path_name(tuple("*" if positions and isinstance(p, int) else p for p in path[:length]))
            if name in table:
                return name
    return None


def views_like(value: Tensor, param: Tensor) -> list[Tensor]:
    """A tensor of the state as views of the parameter's shape: itself, flattened, or several of them stacked.

    Empty if it has another shape. Writing to the views changes ``value``.
    """
    if value.shape == param.shape:
        return [value]
    if value.layout is not torch.strided or not value.is_contiguous():
        return []
    if value.shape == (param.numel(),):
        return [value.view(param.shape)]
    return [value[i] for i in range(len(value))] if value.shape[1:] == param.shape else []


def walk_state(value: Any, path: Path = (), seen: set[int] | None = None) -> Iterator[tuple[Path, Any]]:
    """Tensors in a state of any structure, and the objects that cannot be searched, each with its path."""
    if isinstance(value, Tensor):
        yield path, value
        return
    if isinstance(value, _WITHOUT_PARTS) or type(value) is object:
        return
    if seen is None:
        seen = set()
    elif id(value) in seen:
        return
    seen.add(id(value))
    parts = list(_parts(value))
    if not parts and not isinstance(value, (Mapping, *_SEQUENCES)) and not _has_attributes(value):
        if getattr(value, "ndim", None) != 0:
            yield path, value
        return
    for name, part in parts:
        if isinstance(part, Tensor):
            yield (*path, name), part
        else:
            yield from walk_state(part, (*path, name), seen)


def tensors_outside_state(optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Tensors in containers that an optimizer keeps beside its state of each parameter, with where they are."""
    for name, value in _own_attributes(optimizer):
        yield from ((f"attribute {path_name(path)!r}", part) for path, part in _in_containers(value, (name,)))
    for key, entry in optimizer.state.items():
        if not isinstance(key, Tensor):
            yield from ((f"state {path_name(path)!r}", part) for path, part in _in_containers(entry, (str(key),)))
    for options in optimizer.param_groups:
        for name, option in options.items():
            if name != "params":
                yield from ((f"option {path_name(path)!r}", part) for path, part in _in_containers(option, (name,)))


def inner_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """Optimizers among the attributes of ``optimizer``, and among theirs, that hold one of its parameters."""
    held = {id(p) for options in optimizer.param_groups for p in options["params"]}
    found: dict[int, Optimizer] = {id(optimizer): optimizer}
    waiting = [optimizer]
    while waiting:
        for attribute, value in _own_attributes(waiting.pop()):
            for _, part in _in_containers(value, (attribute,), Optimizer):
                if id(part) not in found and any(id(p) in held for g in part.param_groups for p in g["params"]):
                    found[id(part)] = part
                    waiting.append(part)
    return list(found.values())[1:]


def _own_attributes(optimizer: Optimizer) -> list[tuple[str, Any]]:
    attributes = vars(optimizer).items()
    return [(k, v) for k, v in attributes if k not in _OWN_ATTRIBUTES and not k.startswith("_optimizer_")]


def _in_containers(value: Any, path: Path, kind: type = Tensor, seen: set[int] | None = None) -> Iterator[Any]:
    """Objects of a kind in nested mappings and sequences, with their paths; other objects are not searched."""
    if isinstance(value, (float, str)):
        return
    if isinstance(value, kind):
        yield path, value
    elif isinstance(value, (Mapping, *_SEQUENCES)):
        seen = set() if seen is None else seen
        if id(value) not in seen:
            seen.add(id(value))
            for name, part in _items(value):
                yield from _in_containers(part, (*path, name), kind, seen)


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield key if isinstance(key, str) else type(key).__name__ if isinstance(key, Tensor) else str(key), part
    elif isinstance(value, _SEQUENCES):
        yield from enumerate(value)


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    yield from _items(value)
    if isinstance(value, types.FunctionType):
        yield from enumerate((value.__defaults__, value.__kwdefaults__))
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not yet assigned
                continue
    elif isinstance(value, types.MethodType):
        yield "__self__", value.__self__
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    if type(value) in (dict, list, tuple):
        return
    yield from getattr(value, "__dict__", {}).items()
    for name in _slots(type(value)):
        try:
            yield name, object.__getattribute__(value, name)
        except AttributeError:  # not set
            continue


def _has_attributes(value: Any) -> bool:
    return hasattr(value, "__dict__") or any("__slots__" in vars(kind) for kind in type(value).__mro__)


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                yield f"_{base.__name__.lstrip('_')}{name}" if private else name
