"""Checks of values read from files: records, checkpoints, about.json, published values.

A *kind* describes a value: a function that takes its name and the value, and raises `WrongValue` for anything else. The
error names the value, what came and what is allowed. Kinds of larger values are made from those of their parts:

>>> about = fields(seconds=number(0), versions=mapping(text))
>>> about("", {"seconds": 1.5, "versions": {"torch": 2}})
Traceback (most recent call last):
    ...
benchmarks.saved_values.WrongValue: versions.torch must be a text, got 2
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from .value_checks import MAX_INTEGER

Kind = Callable[[str, Any], None]

MAX_NUMBER = 1e100
"""The largest absolute value of a number in a record: metrics are computed in float32, which ends at 3e38, and squares
and sums of these numbers stay finite.
"""

_WHOLE = "the content"  # name of a value that is not part of another one


class WrongValue(ValueError):
    """A value that a file must not contain there."""

    def __init__(self, name: str, value: Any, wanted: str) -> None:
        super().__init__(f"{name or _WHOLE} must be {wanted}, got {shown(value)}")


def parse_json(content: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not UTF-8 or not JSON, is nested too deeply, or a string in it has half a surrogate pair.
    """
    try:
        value = json.loads(content.decode("utf-8"))
        if b"\\u" in content:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def shown(value: Any, most: int = 80) -> str:
    """A value in an error message: one line, its first ``most`` characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # nested too deeply, or an integer with too many digits
        return f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def anything(name: str, value: Any) -> None:
    """Any value."""


def scalar(name: str, value: Any) -> None:
    """A text or a finite number, as the value of a setting."""
    if not isinstance(value, str):
        number(-sys.float_info.max, sys.float_info.max)(name, value)


def text(name: str, value: Any) -> None:
    """A text."""
    if not isinstance(value, str):
        raise WrongValue(name, value, "a text")


def boolean(name: str, value: Any) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise WrongValue(name, value, "true or false")


def integer(least: int, most: int = MAX_INTEGER) -> Kind:
    """An integer from ``least`` to ``most``."""

    def check(name: str, value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            upper = f" to {most}" if type(value) is int and value > most else ""
            raise WrongValue(name, value, f"an integer from {least}{upper}" if upper else f"an integer >= {least}")

    return check


def number(least: float = -MAX_NUMBER, most: float = MAX_NUMBER, *, above: float | None = None) -> Kind:
    """A finite number from ``least`` to ``most``, and greater than ``above`` if that is given."""
    allowed = "a finite number" + (
        f" above {above:g}" if above is not None else f" >= {least:g}" if least > -MAX_NUMBER else ""
    )

    def check(name: str, value: Any) -> None:
        if type(value) not in (int, float) or value != value:
            raise WrongValue(name, value, allowed)
        if not least <= value <= most or (above is not None and value <= above):
            raise WrongValue(name, value, f"{allowed} and <= {most:g}" if value > most else allowed)

    return check


def one_of(*allowed: Any) -> Kind:
    """One of several values."""

    def check(name: str, value: Any) -> None:
        if not any(type(value) is type(each) and value == each for each in allowed):
            raise WrongValue(name, value, " or ".join(map(repr, allowed)))

    return check


def optional(kind: Kind) -> Kind:
    """A value of the kind, or null."""

    def check(name: str, value: Any) -> None:
        if value is not None:
            kind(name, value)

    return check


def sequence(kind: Kind, length: int | None = None) -> Kind:
    """A list of values of the kind, ``length`` of them if it is given. The items are named ``seeds[0]``."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise WrongValue(name, value, "a list" if length is None else f"a list of length {length}")
        for i, item in enumerate(value):
            kind(f"{name}[{i}]", item)

    return check


def mapping(kind: Kind) -> Kind:
    """An object, or a dict with texts as keys, whose values are all of the kind."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise WrongValue(name, value, "an object with values by name")
        for key, item in value.items():
            kind(_part(name, key), item)

    return check


def fields(**kinds: Kind) -> Kind:
    """An object with these entries, each of its kind. It may have others."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise WrongValue(name, value, f"an object with {', '.join(kinds)}")
        for key, kind in kinds.items():
            if key not in value:
                raise WrongValue(name, value, f"an object with {', '.join(kinds)}; {key} is missing")
            kind(_part(name, key), value[key])

    return check


def known_fields(**kinds: Kind) -> Kind:
    """An object whose entries with these names, as far as it has them, are of their kinds. It may have others."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise WrongValue(name, value, "an object")
        for key, kind in kinds.items():
            if key in value:
                kind(_part(name, key), value[key])

    return check


def all_of(*kinds: Kind) -> Kind:
    """A value of every one of the kinds."""

    def check(name: str, value: Any) -> None:
        for kind in kinds:
            kind(name, value)

    return check


def any_of(*kinds: Kind) -> Kind:
    """A value of one of the kinds; the error is that of the first."""

    def check(name: str, value: Any) -> None:
        errors = []
        for kind in kinds:
            try:
                kind(name, value)
            except ValueError as error:
                errors.append(error)
        if len(errors) == len(kinds):
            raise errors[0]

    return check


def _part(name: str, key: str) -> str:
    return f"{name}.{key:.60}" if name else f"{key:.60}"
