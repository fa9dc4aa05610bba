"""The options that settings are made of: a dataclass field each, with its help and the check that turns the text of
the command line into a value.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Check = Callable[[str], Any]


def option(default: Any, help: str, check: Check, methods: Iterable[str] = (), *, tuning: bool = False) -> Any:
    """A field of a settings dataclass.

    Args:
        default: its value where nothing else is said.
        help: what it is, for ``--help``.
        check: text -> value; raises argparse.ArgumentTypeError with what is allowed.
        methods: those that it has an effect on; none: all of them.
        tuning: whether it belongs to how a method is tuned or run rather than to the problem that all are given.
    """
    metadata = {"help": help, "check": check, "methods": tuple(methods), "tuning": tuning}
    return dataclasses.field(default=default, metadata=metadata)


def whole(minimum: int) -> Check:
    """Check for a whole number of at least ``minimum``."""

    def check(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {minimum}, got {text!r}")
        return value

    return check


def real(allowed: str, holds: Callable[[float], bool]) -> Check:
    """Check for a finite number for which ``holds`` is true; ``allowed`` says in words which those are."""

    def check(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and holds(value)):
            raise argparse.ArgumentTypeError(f"must be {allowed}, got {text!r}")
        return value

    return check


def one_of(*allowed: str) -> Check:
    """Check for one of some names; the error offers the nearest."""

    def check(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"unknown name {text!r}{nearest(text, allowed)}")
        return text

    return check


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest known one, and all there are."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{hint} Known: {', '.join(known)}" if hint else f". Known: {', '.join(known)}"


def _utility_name(text: str) -> str:
    from gnt.importance._signals import find  # here, because it imports torch

    try:
        find(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


POSITIVE = real("a number above 0", lambda value: value > 0)
NOT_NEGATIVE = real("a number of at least 0", lambda value: value >= 0)
SHARE = real("a number from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_ONE = real("a number from 0 up to, but not including, 1", lambda value: 0 <= value < 1)
_ENGINES = ("continual_backprop", "algorithm_1")
_STEP_BY_STEP = ("l2_init", "redo", "algorithm_1")  # they act within the step, beside the learner


def compiled(methods: Iterable[str]) -> Any:
    """The field ``compile``, for the ``methods`` among these whose whole step can be a compiled graph."""
    methods = [method for method in methods if method not in _STEP_BY_STEP]
    return option("no", "run each step as one compiled graph: yes or no", one_of("yes", "no"), methods, tuning=True)


def folder(text: str) -> str:
    """Check for a folder of data: its whole path, so that a run's name is the same however the folder is written. The
    empty text stays: the experiment says where it looks then.
    """
    return str(Path(text).expanduser().resolve()) if text else ""


def lr(default: float) -> Any:
    """The field ``lr``."""
    return option(default, "learning rate of the optimizer", POSITIVE, tuning=True)


def weight_decay(default: float, *others: str) -> Any:
    """The field ``weight_decay``; ``others``: further methods that decay."""
    methods = ("l2", "shrink_and_perturb", *others)
    return option(default, "weight decay, as torch's optimizers take it", NOT_NEGATIVE, methods, tuning=True)


def noise(default: float) -> Any:
    """The field ``noise``."""
    help = "standard deviation of the noise added to all parameters after each step"
    return option(default, help, NOT_NEGATIVE, ("shrink_and_perturb",), tuning=True)


def l2_init(default: float) -> Any:
    """The field ``l2_init``."""
    help = "strength of the pull of all parameters towards their initial values"
    return option(default, help, NOT_NEGATIVE, ("l2_init",), tuning=True)


def dormancy(default: float) -> Any:
    """The field ``dormancy``."""
    return option(default, "score up to which a unit is dormant", NOT_NEGATIVE, ("redo",), tuning=True)


def period(default: int) -> Any:
    """The field ``period``."""
    return option(default, "steps between two recyclings of dormant units", whole(1), ("redo",), tuning=True)


def replacement_rate(default: float) -> Any:
    """The field ``replacement_rate``."""
    return option(default, "share of the mature units that are replaced in a step", SHARE, _ENGINES, tuning=True)


def maturity_threshold(default: int) -> Any:
    """The field ``maturity_threshold``."""
    help = "updates in which a new unit is protected from replacement"
    return option(default, help, whole(0), _ENGINES, tuning=True)


def decay_rate(default: float) -> Any:
    """The field ``decay_rate``."""
    help = "decay rate of the running averages of utility and feature"
    return option(default, help, BELOW_ONE, _ENGINES, tuning=True)


def utility(default: str) -> Any:
    """The field ``utility``."""
    return option(default, "measure of what a unit is worth", _utility_name, ("continual_backprop",), tuning=True)
