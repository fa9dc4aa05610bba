"""Checks of arguments used by several packages. Each raises before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

from gnt._utils.other_names import unknown_settings_message


def check_known_settings(
    given: Iterable[str], receiver: str, allowed: Iterable[str], engine: Sequence[str] = ()
) -> None:
    """Raise TypeError for settings that would be ignored.

    Args:
        given: names of the settings passed.
        receiver: name of the function or class that received them.
        allowed: settings of the receiver.
        engine: settings that the receiver passes on to its engine.
    """
    own = list(allowed)
    unknown = [name for name in given if name not in own and name not in engine]
    if unknown:
        of_engine = f"; the engine takes {', '.join(engine)}" if engine else ""
        raise TypeError(unknown_settings_message(unknown, receiver, own, of_engine))


def check_flags(**values: Any) -> None:
    """Raise TypeError for values other than True and False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def check_kernels(kernels: Any) -> None:
    """Raise TypeError for values of the setting ``kernels`` other than True, False and None."""
    if kernels is not None and not isinstance(kernels, bool):
        raise TypeError(f"kernels must be True, False or None, got {kernels!r}")


def check_positive(**values: Any) -> None:
    """Raise ValueError for values that are not integers >= 1."""
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value!r}")


def check_counts(**values: Any) -> None:
    """Raise ValueError for values that are not integers >= 0."""
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} must be an integer >= 0, got {value!r}")


def is_real(value: Any) -> bool:
    """True for real numbers, False for bools and everything else."""
    return isinstance(value, Real) and not isinstance(value, bool)


def to_float(value: Any) -> float:
    """``float(value)`` for a real number, with an infinity beyond the range of float64; NaN for anything else."""
    if not is_real(value):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_real(**values: Any) -> None:
    """Raise TypeError for values that are not real numbers."""
    for name, value in values.items():
        if not is_real(value):
            raise TypeError(f"{name} must be a number, got {value!r}")


def finite_number(name: str, value: Any, *, minimum: float = 0.0, exclusive: bool = False) -> float:
    """Return ``value`` as a float, or raise ValueError unless it is a finite number >= ``minimum``.

    With ``exclusive`` the value must exceed the minimum.
    """
    real = to_float(value)
    if not math.isfinite(real) or real < minimum or (exclusive and real == minimum):
        raise ValueError(f"{name} must be a finite number {'>' if exclusive else '>='} {minimum:g}, got {value!r}")
    return real
