"""`preserve_model`: run a user's forward and restore the model, and the objects that it keeps, afterwards.

`restorers_of_attributes` does this for the plain attributes after a single forward within torch.export.
"""

from __future__ import annotations

import contextlib
import operator
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution

from gnt._utils.recording_switch import pause_recording
from gnt.units._tracing.reachable import (
    INTERNAL,
    MISSING,
    CachedFunction,
    assigned_globals,
    cell_content,
    reachable,
    slot_values,
)

Restore = Callable[[], None]


@contextlib.contextmanager
def preserve_model(model: nn.Module) -> Iterator[Restore]:
    """Context manager that restores the attributes, flags and submodules of ``model`` on exit.

    It gives a function that restores them before, such as between two forwards.
    Containers and objects in attributes are restored at any depth, and so are attributes of the modules' classes and
    the closures, default values and global containers of their methods and hooks. The state of the CPU random generator
    is restored too. Values of tensors are not (a traced forward works on fake tensors). Inside the context no engine
    records features, and distributions do not validate their parameters.
    """
    restorers = [restorer for value in reachable(model, hooks=True) for restorer in _restorers(value)]

    def restore() -> None:
        for restorer in restorers:
            restorer()

    with torch.random.fork_rng(devices=[]), pause_recording(), _without_distribution_validation():
        try:
            yield restore
        finally:
            restore()


@contextlib.contextmanager
def preserve_attributes(model: nn.Module) -> Iterator[None]:
    """Context manager that restores attributes and buffers of ``model`` on exit, in less time than `preserve_model`.

    Lists, dicts, sets and deques among the attributes of modules are restored, too; what is inside of these, and
    objects of other classes, are not searched: they may be large, as a vocabulary is. Hooks, parameters and submodules
    are left as they are.
    """
    restorers: list[Restore] = []
    for module in model.modules():
        attributes = vars(module)
        restorers += (_restorer_of_dict(attributes), _restorer_of_dict(module._buffers))
        for name, value in attributes.items():
            if isinstance(value, (dict, list, set, deque)) and name not in INTERNAL:
                restorers += _restorers(value, internal=False)
    try:
        yield
    finally:
        for restore in restorers:
            restore()


def restorers_of_attributes(model: nn.Module) -> list[Restore]:
    """Functions that give plain attributes, and the objects in them, their present contents back.

    Parameters, buffers, submodules and hooks, which torch.export replaces while it runs a forward, are left as they
    are then.
    """
    return [restorer for value in reachable(model, hooks=False) for restorer in _restorers(value, internal=False)]


@contextlib.contextmanager
def _without_distribution_validation() -> Iterator[None]:
    """Turn off the data-dependent argument checks of distributions, with which a sampling policy cannot be traced."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _restorers(value: Any, *, internal: bool = True) -> Iterator[Restore]:
    """Functions that give an object its present contents back; the contents themselves are not copied.

    Those of a module give its parameters, buffers, submodules and hooks back if ``internal`` is true.
    """
    if isinstance(value, torch.Tensor):
        return
    if isinstance(value, type):
        yield _restorer_of_class(value)
    elif isinstance(value, FunctionType):
        yield from map(_restorer_of_cell, value.__closure__ or ())
        yield from (_restorer_of_global(value.__globals__, name) for name in assigned_globals(value))
    elif isinstance(value, CachedFunction):
        yield _restorer_of_cache(value)
    else:
        if isinstance(value, dict):
            yield _restorer_of_dict(value)
        elif isinstance(value, (list, set, deque)):
            yield _restorer_of_items(value)
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            yield _restorer_of_dict(attributes)
            if internal and isinstance(value, nn.Module):
                parts = (attributes.get(name) for name in INTERNAL)
                yield from (_restorer_of_dict(part) for part in parts if isinstance(part, dict))
        if any("__slots__" in vars(kind) for kind in type(value).__mro__):
            yield _restorer_of_slots(value, slot_values(value))


def _restorer_of_dict(values: dict[Any, Any]) -> Restore:
    kind: Any = OrderedDict if isinstance(values, OrderedDict) else dict  # not methods that a subclass overrides
    keys, contents = list(kind.keys(values)), list(kind.values(values))

    def restore() -> None:
        if not (_same(list(kind.keys(values)), keys) and _same(list(kind.values(values)), contents)):
            kind.clear(values)
            for key, value in zip(keys, contents, strict=True):
                kind.__setitem__(values, key, value)

    return restore


def _restorer_of_items(values: list[Any] | set[Any] | deque[Any]) -> Restore:
    kind: Any = next(kind for kind in (list, set, deque) if isinstance(values, kind))
    before = list(values)

    def restore() -> None:
        if not _same(list(values), before):
            kind.clear(values)
            add: Any = kind.update if kind is set else kind.extend
            add(values, before)

    return restore


def _restorer_of_slots(value: Any, before: dict[Any, Any]) -> Restore:
    def restore() -> None:
        now = slot_values(value)
        for descriptor in now.keys() | before.keys():
            if descriptor not in before:
                descriptor.__delete__(value)
            elif now.get(descriptor, MISSING) is not before[descriptor]:
                descriptor.__set__(value, before[descriptor])

    return restore


def _restorer_of_class(kind: type) -> Restore:
    before = {name: value for name, value in vars(kind).items() if not name.startswith("__")}

    def restore() -> None:
        for name, value in list(vars(kind).items()):
            if name.startswith("__"):
                continue
            if name not in before:
                delattr(kind, name)
            elif value is not before[name]:
                setattr(kind, name, before[name])

    return restore


def _restorer_of_cell(cell: Any) -> Restore:
    content = cell_content(cell)

    def restore() -> None:
        if content is not MISSING:
            cell.cell_contents = content
        elif cell_content(cell) is not MISSING:
            del cell.cell_contents

    return restore


def _restorer_of_global(variables: dict[str, Any], name: str) -> Restore:
    before = variables.get(name, MISSING)

    def restore() -> None:
        if before is not MISSING:
            variables[name] = before
        else:
            variables.pop(name, None)

    return restore


def _restorer_of_cache(function: Any) -> Restore:
    before = function.cache_info().misses

    def restore() -> None:
        if function.cache_info().misses != before:  # it may hold results that were computed inside the context
            function.cache_clear()

    return restore


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(operator.is_, a, b))
