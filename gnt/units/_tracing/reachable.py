"""The Python objects that a forward can reach from a model, in which it may keep tensors.

These are attributes of modules, containers and objects in them at any depth, attributes of the modules' classes, and
what their methods name: closures, default values, containers among the global variables, and cached functions.
"""

from __future__ import annotations

import dis
import enum
import functools
import sys
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

CachedFunction = functools._lru_cache_wrapper
_ATOMS = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, enum.Enum)
# objects of these packages are not opened: they hold no features, and may belong to running threads
_CLOSED = (
    "_thread", "asyncio", "concurrent", "gnt", "lightning", "logging", "multiprocessing", "numpy", "pytorch_lightning",
    "queue", "threading", "torch", "weakref",
)  # fmt: skip
_OPENED = ("torch.distributions",)
MISSING = object()
INTERNAL = frozenset(vars(nn.Module()))  # parameters, buffers, hooks and submodules of a module


def reachable(model: nn.Module, *, hooks: bool) -> Iterator[Any]:
    """Yield every object that a forward of the model can reach, each once; parameters and buffers are left out.

    Args:
        model: the model.
        hooks: include what the modules' forward hooks can reach.
    """
    return reachable_from(list(model.modules()), hooks=hooks)


def reachable_from(waiting: list[Any], *, hooks: bool) -> Iterator[Any]:
    """Yield every object that can be reached from those of a list, which is emptied."""
    seen: dict[int, Any] = {}  # keeps the objects, so that no id is used again
    while waiting:
        value = waiting.pop()
        if id(value) not in seen and not _is_closed(value):
            seen[id(value)] = value
            yield value
            waiting.extend(_parts(value, hooks))


def _is_closed(value: Any) -> bool:
    if isinstance(value, type):
        return not is_own_class(value)
    if isinstance(value, _ATOMS):
        return True
    name = str(type(value).__module__)
    return (
        name.partition(".")[0] in _CLOSED
        and not isinstance(value, (nn.Module, Tensor, dict, list, set, deque))
        and not name.startswith(_OPENED)
    )


def is_own_class(kind: type) -> bool:
    """True for a class outside torch and Python's library, of which attributes may hold tensors."""
    package = str(kind.__module__).partition(".")[0]
    return (package not in _CLOSED and package not in sys.stdlib_module_names) or package == "__main__"


def _parts(value: Any, hooks: bool) -> Iterator[Any]:
    """The objects directly inside a value."""
    if isinstance(value, Tensor):
        return
    if isinstance(value, nn.Module):
        yield from (part for name, part in vars(value).items() if name not in INTERNAL)
        yield from (kind for kind in type(value).__mro__ if is_own_class(kind))
        if hooks:
            yield from (*value._forward_hooks.values(), *value._forward_pre_hooks.values())
        return
    if isinstance(value, type):
        yield from vars(value).values()
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, (staticmethod, classmethod, CachedFunction)):
        yield value.__wrapped__
    elif isinstance(value, property):
        yield from (value.fget, value.fset)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    else:
        if isinstance(value, dict):
            yield from list(dict.values(value))
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            yield from list(value)
        yield from list(getattr(value, "__dict__", {}).values())
        yield from slot_values(value).values()
        yield from (kind for kind in type(value).__mro__ if is_own_class(kind))


def _parts_of_function(function: types.FunctionType) -> Iterator[Any]:
    yield from map(cell_content, function.__closure__ or ())
    yield from (function.__defaults__, function.__kwdefaults__)
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        is_near = isinstance(value, types.FunctionType) and value.__module__ == function.__module__
        if is_near or isinstance(value, (dict, list, set, deque, CachedFunction)):
            yield value
    yield from (function.__globals__.get(name) for name in assigned_globals(function))


def cell_content(cell: types.CellType) -> Any:
    """The value of a variable of an enclosing function; `MISSING` if it is not assigned yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def assigned_globals(function: types.FunctionType) -> list[str]:
    """Names of the global variables that a function assigns."""
    return _assigned_globals(function.__code__)


@functools.lru_cache(4096)
def _assigned_globals(code: types.CodeType) -> list[str]:
    if not code.co_names:
        return []
    return [str(step.argval) for step in dis.get_instructions(code) if step.opname == "STORE_GLOBAL"]


def slot_values(value: Any) -> dict[types.MemberDescriptorType, Any]:
    """The assigned ``__slots__`` of an object, by their descriptors."""
    found = {}
    for kind in type(value).__mro__:
        if "__slots__" in vars(kind):
            for descriptor in vars(kind).values():
                if isinstance(descriptor, types.MemberDescriptorType):
                    try:
                        found[descriptor] = descriptor.__get__(value)
                    except AttributeError:  # not assigned
                        continue
    return found
