"""Checks of saved states, made before anything is loaded.

A *kind* describes one entry of a saved state: a function that takes the entry's name and value and returns the value in
the form in which it is loaded (a number, or a tensor with the device and dtype of the one that it replaces). It raises
ValueError for anything else. `check_entries` applies one kind to each entry. A class checks its whole state first, and
then loads what the kinds have returned, which cannot fail: an error leaves everything as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gnt._utils.generators import fitting_state
from gnt._utils.validation import to_float

MAX_COUNT = 2**53  # far beyond any run; sums of two counts fit into int64, and float64 holds each exactly


class Entry(NamedTuple):
    """The name of an entry and, for error messages, what it is part of: ``" for group '0'"``."""

    name: str
    where: str = ""

    def error(self, got: str, wanted: str) -> ValueError:
        """The error for a value described by ``got``."""
        return ValueError(f"state_dict {got}{self.where}, which must be {wanted}")

    def wrong_value(self, value: Any, wanted: str) -> ValueError:
        """The error for a number or another plain value."""
        if isinstance(value, Tensor):
            return self.wrong_tensor(value, f"a tensor of shape {tuple(value.shape)}", wanted)
        return self.error(f"holds {self.name} {shown(value)}", wanted)

    def wrong_tensor(self, value: Any, got: str, wanted: str) -> ValueError:
        """The error for a tensor."""
        got = got if isinstance(value, Tensor) else f"{type(value).__name__} {shown(value)}"
        return self.error(f"has {self.name!r} {got}", wanted)


Kind = Callable[[Entry, Any], Any]


def shown(value: Any) -> str:
    """A value in an error message: its first characters."""
    try:
        return f"{value!r:.80}"
    except Exception:  # an integer with too many digits, or a repr that fails
        return f"of type {type(value).__name__}"


def check_entries(saved: Any, kinds: Mapping[str, Kind], where: str = "") -> dict[str, Any]:
    """Check the entries of a saved dict that ``kinds`` name -> their values, ready to be loaded.

    Raises:
        ValueError: not a dict, an entry is missing, or its value is not of its kind.
    """
    if not isinstance(saved, dict):
        raise ValueError(f"state_dict must hold a dict{where}, got {shown(saved)}")
    missing = [name for name in kinds if name not in saved]
    if missing:
        raise ValueError(f"state_dict is incomplete: it lacks {', '.join(missing)}{where}")
    return {name: kind(Entry(name, where), saved[name]) for name, kind in kinds.items()}


def check_saved_state(state_dict: Any, source: str, kinds: Mapping[str, Kind], version: int) -> dict[str, Any]:
    """Check a whole state: it holds "version", which is ``version``, and an entry of each kind, and nothing else.

    Args:
        state_dict: the value to check.
        source: what returns such states, for the error message: ``"L2Init.state_dict()"``.
        kinds: the kinds of the entries besides "version".
        version: the version that can be loaded.

    Returns:
        The values without "version", ready to be loaded.
    """
    required = {"version", *kinds}
    if not isinstance(state_dict, dict) or set(state_dict) != required:
        got = ", ".join(sorted(map(str, state_dict))) if isinstance(state_dict, dict) else type(state_dict).__name__
        raise ValueError(f"state_dict is not one of {source}: it must hold {', '.join(sorted(required))}, got {got}")
    check_version(state_dict["version"], version)
    return check_entries(state_dict, kinds)


def check_version(saved: Any, version: int) -> None:
    """Raise ValueError for a saved state of another version."""
    if type(saved) is not int or saved != version:
        raise ValueError(f"state_dict has version {shown(saved)}; this gnt reads version {version}")


def counter(most: int = MAX_COUNT, of: str = "") -> Kind:
    """An integer in 0..most; ``of`` tells in the error message what ``most`` is."""

    def check(entry: Entry, value: Any) -> int:
        integer = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
        if integer is None or not 0 <= integer <= most:
            upper = f" and <= {most}{of}" if of or (integer is not None and integer > most) else ""
            raise entry.wrong_value(value, f"an integer >= 0{upper}")
        return integer

    return check


def number(low: float, high: float) -> Kind:
    """A finite number in low..high."""

    def check(entry: Entry, value: Any) -> float:
        real = to_float(value)
        if not low <= real <= high or not math.isfinite(real):
            raise entry.wrong_value(value, f"a number in [{low:g}, {high:g}]")
        return real

    return check


def text(entry: Entry, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise entry.wrong_value(value, "a string")
    return value


def equal_to(expected: Any, message: Callable[[str], str]) -> Kind:
    """A value of the same type that equals ``expected``; ``message`` makes the error message for another one."""

    def check(entry: Entry, value: Any) -> Any:
        try:
            same = type(value) is type(expected) and bool(value == expected)
        except RuntimeError:  # a list of tensors
            same = False
        if not same:
            raise ValueError(message(shown(value)))
        return value

    return check


def tensor(like: Tensor, low: int | None = None, high: int | None = None) -> Kind:
    """A tensor with the shape of ``like`` and a similar dtype: finite floating point, or integers in low..high.

    It is returned as a copy with the device and the dtype of ``like``, without gradient.
    """

    def check(entry: Entry, value: Any) -> Tensor:
        shape = tuple(like.shape)
        wanted = f"{'a floating point' if like.is_floating_point() else 'an integer'} tensor of shape {shape}"
        if not isinstance(value, Tensor) or tuple(value.shape) != shape:
            raise entry.wrong_tensor(value, f"of shape {tuple(getattr(value, 'shape', ()))}", wanted)
        if value.is_meta or value.layout is not torch.strided:
            raise entry.wrong_tensor(value, f"on {value.device}, with layout {value.layout}", f"{wanted}, with values")
        integers = not value.is_floating_point() and not value.is_complex() and value.dtype is not torch.bool
        if value.is_quantized or not (value.is_floating_point() if like.is_floating_point() else integers):
            raise entry.wrong_tensor(value, f"of dtype {value.dtype}", wanted)
        loaded = value.detach().to(like.device, like.dtype, copy=True)
        if like.is_floating_point():
            if not torch.isfinite(loaded).all():
                raise entry.wrong_tensor(value, f"with values that are not finite in {like.dtype}", "finite")
        elif loaded.numel() and (low is not None or high is not None):
            least, largest = (int(bound) for bound in loaded.aminmax())
            if (low is not None and least < low) or (high is not None and largest > high):
                raise entry.wrong_tensor(value, f"with values in {least}..{largest}", f"in {low}..{high}")
        return loaded

    return check


def sequence(kinds: Sequence[Kind], told: str) -> Kind:
    """A list of as many values as there are kinds, each of its kind; ``told`` says in the error message what it holds.

    The items are named by their position: ``generators[0]``.
    """

    def check(entry: Entry, value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)) or len(value) != len(kinds):
            raise ValueError(f"state_dict must hold {told}{entry.where}, got {shown(value)}")
        pairs = zip(kinds, value, strict=True)
        return [kind(Entry(f"{entry.name}[{i}]", entry.where), item) for i, (kind, item) in enumerate(pairs)]

    return check


def tensors_like(parameters: Iterable[Tensor], names: Iterable[str]) -> Kind:
    """A list with one floating point tensor for each parameter, of its shape."""
    like = list(zip(names, parameters, strict=True))

    def check(entry: Entry, value: Any) -> list[Tensor]:
        if not isinstance(value, (list, tuple)) or len(value) != len(like):
            got = f"{len(value)} tensors" if isinstance(value, (list, tuple)) else type(value).__name__
            raise ValueError(f"state_dict must hold {len(like)} tensors, one for each parameter, got {got}")
        loaded = []
        for i, ((name, parameter), item) in enumerate(zip(like, value, strict=True)):
            shape = tuple(parameter.shape)
            if not isinstance(item, Tensor) or tuple(item.shape) != shape:
                got = str(tuple(item.shape)) if isinstance(item, Tensor) else type(item).__name__
                raise ValueError(f"state_dict is of another network: parameter {name} has shape {shape}, got {got}")
            loaded.append(tensor(parameter)(Entry(f"{entry.name}[{i}]", f" for parameter {name}"), item))
        return loaded

    return check


def random_state(generator: Any) -> Kind:
    """The state of a generator, in the form that ``generator.set_state`` takes; also one of another type of device.

    ``generator``: a torch.Generator, or an object with a method ``fitting_state`` of its own.
    """

    def check(entry: Entry, value: Any) -> Tensor:
        try:
            if isinstance(generator, torch.Generator):
                return fitting_state(value, generator)
            fitting: Tensor = generator.fitting_state(value)
            return fitting
        except ValueError as error:
            raise ValueError(f"state_dict has {entry.name!r}{entry.where}: {error}") from None

    return check
