"""How an experiment declares its settings: one dataclass gives the command line, the names of runs and the
records.

A field made with `option` carries its help, the check that turns the text of the command line into a value,
and the methods that it concerns, so that a run of backprop keeps its name when only a setting of continual
backprop changes.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import hashlib
import json
import math
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Check = Callable[[str], Any]

OUT = Path("results")
METHODS = ("backprop", "continual_backprop")


def option(default: Any, help: str, check: Check, methods: Iterable[str] = METHODS) -> Any:
    """A field of a settings dataclass. ``methods``: those that the setting has an effect on."""
    return dataclasses.field(default=default, metadata={"help": help, "check": check, "methods": tuple(methods)})


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
    from gnt.utility import find  # here, because it imports torch

    try:
        find(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


STEP_SIZE = real("a number above 0", lambda value: value > 0)
_CBP = ("continual_backprop",)


def replacement_rate(default: float) -> Any:
    """The field ``replacement_rate``."""
    check = real("a number from 0 to 1", lambda value: 0 <= value <= 1)
    return option(default, "share of the mature units that are replaced in a step", check, _CBP)


def maturity_threshold(default: int) -> Any:
    """The field ``maturity_threshold``."""
    return option(default, "updates in which a new unit is protected from replacement", whole(0), _CBP)


def decay_rate(default: float) -> Any:
    """The field ``decay_rate``."""
    check = real("a number from 0 up to, but not including, 1", lambda value: 0 <= value < 1)
    return option(default, "decay rate of the running averages of utility and feature", check, _CBP)


def utility(default: str) -> Any:
    """The field ``utility``."""
    return option(default, "measure of what a unit is worth", _utility_name, _CBP)


def concerning(settings: Any, methods: Iterable[str]) -> dict[str, Any]:
    """The settings that have an effect on at least one of ``methods``, by name."""
    methods = set(methods)
    fields = dataclasses.fields(settings)
    return {f.name: getattr(settings, f.name) for f in fields if methods & set(f.metadata["methods"])}


def changed(settings: Any, methods: Iterable[str]) -> dict[str, Any]:
    """Those of `concerning` that are not at their defaults."""
    standard = concerning(type(settings)(), methods)
    return {name: value for name, value in concerning(settings, methods).items() if value != standard[name]}


def run_name(experiment: str, settings: Any, methods: Iterable[str]) -> str:
    """A folder's name: readable (what differs from the defaults), and never the same for different settings
    (a hash of all).
    """
    methods = sorted(methods)
    # An experiment raises its revision when what its settings mean changes, so that older runs keep apart.
    full = [experiment, type(settings).revision, methods, concerning(settings, methods)]
    digest = hashlib.sha256(json.dumps(full, sort_keys=True).encode()).hexdigest()[:8]
    readable = [f"{name.replace('_', '-')}={value}" for name, value in changed(settings, methods).items()]
    return "_".join([*(readable or ["defaults"]), digest])


def flag(name: str) -> str:
    """How a setting is written on the command line."""
    return f"--{name.replace('_', '-')}"


def as_flags(values: dict[str, Any]) -> str:
    """Settings as they are written on the command line."""
    return " ".join(f"{flag(name)} {value}" for name, value in values.items())


def command_line(experiment: str, settings: Any, methods: Iterable[str], out: Path) -> str:
    """The command that makes this run, or goes on with it."""
    options = [as_flags(changed(settings, METHODS))]
    if tuple(methods) != METHODS:
        options.append(f"--methods {' '.join(methods)}")
    if out != OUT:
        options.append(f"--out {shlex.quote(str(out))}")
    return " ".join(["python -m benchmarks", experiment, *filter(None, options)])
