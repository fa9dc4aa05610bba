"""Watched values: places that hold Python values which a graph has built in, with what they held.

Each kind of place has a class with the same three methods: ``is_current`` (compared before each step, so identity comes
first), ``restore``, and ``path``, which describes the place in messages.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, MutableSequence
from operator import is_
from types import CellType
from typing import Any

import numpy as np
from torch import Tensor

from gnt.learners._compile.immutable_values import same

MISSING: Any = object()  # stands for a name that is not there

RANDOM = (random.Random, np.random.Generator, np.random.RandomState)


class Watched:
    """A place that holds a value. ``value`` is what it held when it was watched."""

    __slots__ = ("holder", "path", "value")

    def __init__(self, holder: Any, path: str, value: Any) -> None:
        self.holder, self.path, self.value = holder, path, value

    def is_current(self) -> bool:
        """True if the place holds the same value as before."""
        raise NotImplementedError

    def unchanged_by_capture(self) -> bool:
        """True if tracing the step has left the place as it was."""
        return self.is_current()

    def restore(self) -> None:
        """Store the former value again."""


class WatchedName(Watched):
    """A name in a dict: a global variable or an attribute."""

    __slots__ = ("name",)

    def __init__(self, holder: Mapping[str, Any], name: str, path: str) -> None:
        super().__init__(holder, path, holder.get(name, MISSING))
        self.name = name

    def is_current(self) -> bool:
        """Compare the value."""
        now = self.holder.get(self.name, MISSING)
        return now is self.value or same(now, self.value)

    def restore(self) -> None:
        """Assign it."""
        if self.value is MISSING:
            self.holder.pop(self.name, None)
        else:
            self.holder[self.name] = self.value


class WatchedClassAttribute(WatchedName):
    """A name in the dict of a class."""

    __slots__ = ("owner",)

    def __init__(self, owner: type, name: str, path: str) -> None:
        super().__init__(owner.__dict__, name, path)
        self.owner = owner

    def restore(self) -> None:
        """Assign it."""
        if self.value is MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.value)


class WatchedCell(Watched):
    """A variable of a closure."""

    __slots__ = ()
    holder: CellType

    def __init__(self, holder: CellType, path: str) -> None:
        super().__init__(holder, path, _contents(holder))

    def is_current(self) -> bool:
        """Compare the value."""
        now = _contents(self.holder)
        return now is self.value or same(now, self.value)

    def restore(self) -> None:
        """Assign it."""
        if self.value is not MISSING:
            self.holder.cell_contents = self.value


class WatchedSlot(Watched):
    """An attribute in ``__slots__``."""

    __slots__ = ("name",)

    def __init__(self, holder: Any, name: str, path: str) -> None:
        super().__init__(holder, path, getattr(holder, name, MISSING))
        self.name = name

    def is_current(self) -> bool:
        """Compare the value."""
        return same(getattr(self.holder, self.name, MISSING), self.value)

    def restore(self) -> None:
        """Assign it."""
        if self.value is not MISSING:
            setattr(self.holder, self.name, self.value)


class WatchedSequence(Watched):
    """The entries of a list or deque."""

    __slots__ = ()
    holder: MutableSequence[Any]

    def __init__(self, holder: MutableSequence[Any], path: str) -> None:
        super().__init__(holder, path, tuple(holder))

    def is_current(self) -> bool:
        """Compare the entries."""
        if len(self.holder) != len(self.value):
            return False
        return all(map(is_, self.holder, self.value)) or all(map(same, self.holder, self.value))

    def restore(self) -> None:
        """Store the former entries again."""
        if isinstance(self.holder, deque):
            self.holder.clear()
            self.holder.extend(self.value)
        else:
            self.holder[:] = self.value


class WatchedDict(Watched):
    """The keys and values of a dict."""

    __slots__ = ()
    holder: dict[Any, Any]

    def __init__(self, holder: dict[Any, Any], path: str) -> None:
        super().__init__(holder, path, (tuple(holder), tuple(holder.values())))

    def is_current(self) -> bool:
        """Compare keys, their order, and values."""
        keys, values = self.value
        if len(self.holder) != len(keys):
            return False
        if all(map(is_, self.holder, keys)) and all(map(is_, self.holder.values(), values)):
            return True
        return all(map(same, self.holder, keys)) and all(map(same, self.holder.values(), values))

    def restore(self) -> None:
        """Store the former keys and values again."""
        self.holder.clear()
        self.holder.update(zip(*self.value, strict=True))


class WatchedSet(Watched):
    """The members of a set."""

    __slots__ = ()
    holder: set[Any]

    def __init__(self, holder: set[Any], path: str) -> None:
        super().__init__(holder, path, frozenset(holder))

    def is_current(self) -> bool:
        """Compare the members."""
        return bool(self.holder == self.value)

    def restore(self) -> None:
        """Store the former members again."""
        self.holder.clear()
        self.holder.update(self.value)


class WatchedArray(Watched):
    """The contents of a NumPy array."""

    __slots__ = ()
    holder: np.ndarray[Any, Any]

    def __init__(self, holder: np.ndarray[Any, Any], path: str) -> None:
        super().__init__(holder, path, (holder.dtype, holder.shape, holder.tobytes()))

    def is_current(self) -> bool:
        """Compare the bytes."""
        return bool((self.holder.dtype, self.holder.shape, self.holder.tobytes()) == self.value)

    def restore(self) -> None:
        """Store the former contents again."""
        dtype, shape, content = self.value
        if (self.holder.dtype, self.holder.shape) == (dtype, shape):
            self.holder[...] = np.frombuffer(content, dtype).reshape(shape)


class WatchedTensor(Watched):
    """The version of a tensor that is no input of the graph."""

    __slots__ = ()
    holder: Tensor

    def __init__(self, holder: Tensor, path: str) -> None:
        super().__init__(holder, path, -1 if holder.is_inference() else holder._version)

    def is_current(self) -> bool:
        """Compare the version."""
        return bool(self.value < 0 or self.holder._version == self.value)


class WatchedRandom(Watched):
    """The state of a random generator of Python or NumPy. A step may not draw from it; others may."""

    __slots__ = ()

    def __init__(self, holder: Any, path: str) -> None:
        super().__init__(holder, path, _random_state(holder))

    def is_current(self) -> bool:
        """True: what others draw does not matter."""
        return True

    def unchanged_by_capture(self) -> bool:
        """Compare the states."""
        return str(_random_state(self.holder)) == str(self.value)

    def restore(self) -> None:
        """Restore the state."""
        if isinstance(self.holder, random.Random):
            self.holder.setstate(self.value)
        elif isinstance(self.holder, np.random.RandomState):
            self.holder.set_state(self.value)
        else:
            self.holder.bit_generator.state = self.value


def _random_state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.bit_generator.state


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return MISSING
