"""PythonState: the Python values that the forward, the loss and the measure read, which a graph has built in.

They are found once, after a step in which `ExecutedCode` recorded the code that ran: global variables and variables of
closures of this code, and, in the objects that these hold, in the network's modules and in the loss, every attribute
whose name occurs in it. Containers are watched as a whole. Values that a module holds directly as plain attributes are
part of a step's key (`StepContext`), and tensors of modules are inputs of the graph.
"""

from __future__ import annotations

import ctypes
import functools
import operator
from collections import deque
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gnt.learners._compile.executed_code import ExecutedCode, is_users
from gnt.learners._compile.immutable_values import IMMUTABLE
from gnt.learners._compile.python_values import (
    RANDOM,
    Watched,
    WatchedArray,
    WatchedCell,
    WatchedClassAttribute,
    WatchedDict,
    WatchedName,
    WatchedRandom,
    WatchedSequence,
    WatchedSet,
    WatchedSlot,
    WatchedTensor,
)
from gnt.learners._compile.tensor_slots import is_plain

MAX_PLACES = 20_000
MAX_ARRAY = 1 << 20  # bytes of a NumPy array, which is compared in each step

_is_current = operator.methodcaller("is_current")
_MODULE_INTERNALS = frozenset(nn.Module().__dict__)
_LEAVES = (*IMMUTABLE, BuiltinFunctionType, torch.Generator)


class PythonState:
    """Python values that a step reads, as they were when this object was made.

    Args:
        code: the code that ran in the step.
        roots: objects from which the step starts: the loss, the measure.
        modules: the modules whose tensors are inputs of the graph.
        inputs: these tensors.

    Attributes:
        refused: descriptions of values that cannot be watched, with the reasons.
    """

    def __init__(
        self, code: ExecutedCode, roots: Iterable[Any], modules: Iterable[nn.Module], inputs: Iterable[Tensor]
    ) -> None:
        self._code = code
        self._places: list[Watched] = []
        self.refused: list[str] = []
        self._seen: dict[Any, Any] = {id(tensor): tensor for tensor in inputs}  # keeps each alive, so ids stay unique
        own = list(modules)
        self._seen.update({id(module): module for module in own})
        self._class_names: dict[type, list[str]] = {}
        for module in own:
            self._add_module(module)
        for variables, name in code.globals_read():
            self._add_name(variables, name, f"the global {name!r} of {variables.get('__name__')}")
        for root in roots:
            self._add(root, getattr(root, "__name__", type(root).__name__))
        del self._code, self._seen, self._class_names

    def is_current(self) -> bool:
        """True if all values are the same as before."""
        return all(map(_is_current, self._places))

    def changes(self) -> list[str]:
        """Descriptions of the places whose values have changed."""
        return [place.path for place in self._places if not place.is_current()]

    def undo_capture(self) -> list[str]:
        """Restore the values that tracing the step has changed. Returns descriptions of their places."""
        changed = [place for place in self._places if not place.unchanged_by_capture()]
        for place in changed:
            place.restore()
        return [place.path for place in changed]

    def _watch(self, place: Watched) -> None:
        if len(self._places) < MAX_PLACES:
            self._places.append(place)
        elif len(self._places) == MAX_PLACES and not self.refused:
            self.refused.append(f"more than {MAX_PLACES} Python values, such as {place.path}")

    def _add_name(self, holder: Any, name: str, path: str) -> None:
        if (id(holder), name) not in self._seen:
            self._seen[id(holder), name] = holder
            self._watch(WatchedName(holder, name, path))
            if name in holder:
                self._add(holder[name], path)

    def _add(self, value: Any, path: str) -> None:
        """Watch everything that a value holds, of whatever kind it is."""
        if isinstance(value, _LEAVES) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._watch(WatchedTensor(value, path))
        elif isinstance(value, (tuple, frozenset, list, deque, set, dict)):
            self._add_container(value, path)
        elif isinstance(value, np.ndarray):
            self._add_array(value, path)
        elif isinstance(value, RANDOM):
            self._watch(WatchedRandom(value, path))
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, MethodType):
            self._add(value.__self__, path)
            self._add(value.__func__, path)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._add(part, path)
        elif isinstance(value, (staticmethod, classmethod)):
            self._add(value.__func__, path)
        elif isinstance(value, property):
            self._add(value.fget, path)
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, ModuleType):
            if is_users(value.__name__):
                self._add_attributes(value.__dict__, value.__name__)
        elif hasattr(type(value), "__next__") or isinstance(value, ctypes._SimpleCData):
            self.refused.append(f"{path}, whose state cannot be read ({type(value).__name__})")
        else:
            self._add_object(value)

    def _add_container(self, value: Any, path: str) -> None:
        entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        if isinstance(value, dict):
            self._watch(WatchedDict(value, path))
        elif isinstance(value, (list, deque)):
            self._watch(WatchedSequence(value, path))
        elif isinstance(value, set):
            self._watch(WatchedSet(value, path))
        for key, entry in entries:
            self._add(entry, f"{path}[{key!r}]")
        if hasattr(value, "__dict__"):
            self._add_object(value)

    def _add_array(self, value: np.ndarray[Any, Any], path: str) -> None:
        if value.nbytes > MAX_ARRAY:
            self.refused.append(f"{path}, a NumPy array of {value.nbytes >> 20} MB: make it a buffer")
            return
        self._watch(WatchedArray(value, path))
        if value.dtype.hasobject:
            self._add(value.tolist(), path)

    def _add_function(self, function: FunctionType) -> None:
        """Watch what a function reads besides its arguments, if it ran; global variables are watched already."""
        if function.__code__ not in self._code.users:
            return
        name = function.__name__
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            place = WatchedCell(cell, f"{variable!r} in the closure of {name}")
            self._watch(place)
            self._add(place.value, place.path)
        self._add(function.__defaults__, f"the defaults of {name}")
        self._add(function.__kwdefaults__, f"the defaults of {name}")
        self._add_attributes(function.__dict__, name)

    def _add_attributes(self, holder: dict[str, Any], owner: str) -> None:
        for name in self._code.names & holder.keys():
            self._add_name(holder, name, f"{name!r} of {owner}")

    def _add_module(self, module: nn.Module) -> None:
        """Watch a module's attributes, except for plain ones and tensors, and its class."""
        attributes, kind = module.__dict__, type(module).__name__
        for name in (self._code.names & attributes.keys()) - _MODULE_INTERNALS:
            if not isinstance(value := attributes[name], (Tensor, nn.Module)) and not is_plain(value):
                self._add_name(attributes, name, f"{name!r} of {kind}")
        self._add_class(type(module))

    def _add_object(self, value: Any) -> None:
        kind = type(value)
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._add_attributes(attributes, kind.__name__)
        for base in kind.__mro__:
            slots = base.__dict__.get("__slots__", ())
            for name in self._code.names & set([slots] if isinstance(slots, str) else slots):
                place = WatchedSlot(value, name, f"{name!r} of {kind.__name__}")
                self._watch(place)
                self._add(place.value, place.path)
        for name in self._add_class(kind):
            if isinstance(attributes, dict) and name not in attributes:
                self._add_name(attributes, name, f"{name!r} of {kind.__name__}")

    def _add_class(self, kind: type) -> list[str]:
        """Watch the attributes and methods of a class, and its ``forward``. Returns their names."""
        if kind in self._class_names:
            return self._class_names[kind]
        watched = self._class_names[kind] = []
        for number, base in enumerate(kind.__mro__):
            users = is_users(base.__module__)
            for name, value in list(base.__dict__.items()):
                read = users and (name in self._code.names or _code_of(value) in self._code.users)
                read = read or (name == "forward" and issubclass(kind, nn.Module))
                if not read or name in watched:
                    continue
                watched.append(name)
                path = f"{name!r} of {kind.__name__}"
                for holder in kind.__mro__[: number + 1]:  # a class before it may get an attribute of the same name
                    if holder is base or is_users(holder.__module__):
                        self._watch(WatchedClassAttribute(holder, name, path))
                self._add(value, path)
        return watched


def _code_of(value: Any) -> Any:
    function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    return getattr(function, "__code__", None)
