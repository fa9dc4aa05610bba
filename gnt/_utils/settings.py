"""Settings of objects that are checked whenever they are assigned, at construction and later.

    @checked_settings(shrink=share, every=count, fixed=("distribution",))
    class ShrinkAndPerturb: ...

A rule takes the name and the value, and returns the value to keep or raises TypeError or ValueError, before anything
has changed. Settings that are fixed can be assigned once. Assigning a name that is no attribute is an error, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from gnt._utils.known_attributes import known_attributes
from gnt._utils.validation import check_counts, check_flags, check_positive, finite_number, to_float

Rule = Callable[[str, Any], Any]
Kind = TypeVar("Kind", bound=type[Any])


class Setting:
    """Descriptor of a setting. Reading finds the value in the instance, as without a descriptor.

    Args:
        name: the attribute.
        rule: checks a new value; None: it cannot be changed.
    """

    def __init__(self, name: str, rule: Rule | None) -> None:
        self._name, self._rule = name, rule

    def __set__(self, owner: object, value: Any) -> None:
        name, values = self._name, vars(owner)
        if self._rule is not None:
            value = self._rule(name, value)
        elif name in values and value is not values[name] and not _equal(value, values[name]):
            kind = type(owner).__name__
            raise AttributeError(
                f"{name} of {kind} cannot be changed from {values[name]!r} to {value!r}: build a new {kind}"
            )
        values[name] = value

    def __delete__(self, owner: object) -> None:
        raise AttributeError(f"{self._name} of {type(owner).__name__} cannot be deleted")


def _equal(value: Any, present: Any) -> bool:
    return type(value) is type(present) and isinstance(value, (bool, int, float, str)) and bool(value == present)


def checked_settings(*, fixed: Iterable[str] = (), **rules: Rule) -> Callable[[Kind], Kind]:
    """Decorate a class so that its settings are checked when they are assigned, and unknown ones are refused.

    Args:
        fixed: attributes that can be assigned only once.
        rules: attributes with the rule for their values.
    """

    def decorate(kind: Kind) -> Kind:
        for name, rule in (*rules.items(), *((name, None) for name in fixed)):
            setattr(kind, name, Setting(name, rule))
        return kind if hasattr(kind.__setattr__, "unchecked") else known_attributes()(kind)

    return decorate


def non_negative(name: str, value: Any) -> float:
    """A finite number >= 0."""
    return finite_number(name, value)


def above_zero(name: str, value: Any) -> float:
    """A finite number > 0."""
    return finite_number(name, value, exclusive=True)


def share(name: str, value: Any) -> float:
    """A number in [0, 1]."""
    number = finite_number(name, value)
    if number > 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return number


def decay(name: str, value: Any) -> float:
    """A number in [0, 1)."""
    number = to_float(value)
    if not 0.0 <= number < 1.0:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")
    return number


def at_least(minimum: float) -> Rule:
    """A finite number of this size or more."""
    return lambda name, value: finite_number(name, value, minimum=minimum)


def count(name: str, value: Any) -> int:
    """An integer >= 0."""
    check_counts(**{name: value})
    return int(value)


def positive(name: str, value: Any) -> int:
    """An integer >= 1."""
    check_positive(**{name: value})
    return int(value)


def flag(name: str, value: Any) -> bool:
    """True or False."""
    check_flags(**{name: value})
    return bool(value)


def one_of(*allowed: str) -> Rule:
    """One of these names."""

    def rule(name: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
        return value

    return rule


def optional(rule: Rule) -> Rule:
    """None, or what another rule allows."""

    def checked(name: str, value: Any) -> Any:
        try:
            return None if value is None else rule(name, value)
        except ValueError as error:
            raise ValueError(str(error).replace(", got ", " or None, got ", 1)) from None

    return checked
