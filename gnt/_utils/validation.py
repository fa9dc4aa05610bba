"""Checks of arguments that are the same everywhere; each raises before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any


def check_known_settings(given: Iterable[str], taker: str, allowed: Iterable[str], engine: Sequence[str] = ()) -> None:
    """Refuse settings that nothing would use; ``allowed`` are those of ``taker``, ``engine`` those of its engine."""
    own = list(allowed)
    unknown = [name for name in given if name not in own and name not in engine]
    if unknown:
        beside = f"; the engine takes {', '.join(engine)}" if engine else ""
        raise TypeError(f"unknown setting {', '.join(unknown)}: {taker} takes {', '.join(own)}{beside}")


def check_flags(**values: Any) -> None:
    """Refuse what is neither True nor False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def check_positive(**values: Any) -> None:
    """Refuse what is not an integer of at least 1."""
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value!r}")


def is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
