"""Checks of setting values: each converts the text from the command line into a value, or says what is allowed."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Check = Callable[[str], Any]

MAX_INTEGER = 2**63 - 1
"""The largest integer that fits into 64 bits with a sign, as torch's integers do."""

MAX_SEED = 2**64 - 1
"""The largest seed that `torch.manual_seed` accepts."""

MAX_SEEDS = 1_000_000
"""The largest number of seeds in a command."""


def whole(minimum: int, maximum: int = MAX_INTEGER) -> Check:
    """Check for an integer from ``minimum`` to ``maximum``."""

    def check(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # also raised for thousands of digits
            value = maximum + 1 if text.strip().lstrip("+").isdecimal() else minimum - 1
        if value > maximum:
            raise argparse.ArgumentTypeError(f"must be an integer from {minimum} to {maximum}, got {text!r:.60}")
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {minimum}, got {text!r:.60}")
        return value

    return check


def real(allowed: str, holds: Callable[[float], bool]) -> Check:
    """Check for a finite number for which ``holds`` is true; ``allowed`` describes these numbers in the error."""

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
    """Check for one of several names; the error suggests the most similar one."""

    def check(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"unknown name {text!r}{nearest(text, allowed)}")
        return text

    return check


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the most similar known name, if any, and all known names."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{hint} Known: {', '.join(known)}" if hint else f". Known: {', '.join(known)}"


def folder(text: str) -> str:
    """Check for a data folder: returns the absolute path, so that a run's folder does not depend on how the path is
    written. An empty text stays empty: then the experiment uses its default location.
    """
    try:
        return str(Path(text).expanduser().resolve()) if text else ""
    except (OSError, RuntimeError, ValueError) as error:  # an unknown user, a circle of links
        raise argparse.ArgumentTypeError(f"must be the path of a folder, got {text!r:.60}: {error}") from None


def utility_name(text: str) -> str:
    """Check for the name of a utility measure."""
    from gnt.importance import find_measure  # imported here because it imports torch

    try:
        find_measure(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def importance_name(text: str) -> str:
    """Check for the name of a utility measure or of an attribution."""
    from gnt.importance import ATTRIBUTIONS  # imported here because it imports torch

    return text if text in ATTRIBUTIONS else utility_name(text)


def layer_sizes(text: str) -> str:
    """Check for the sizes of hidden layers, such as 300-150."""
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"must be sizes of hidden layers such as 300-150, got {text!r}")
    return text


POSITIVE = real("a number above 0", lambda value: value > 0)
NOT_NEGATIVE = real("a number of at least 0", lambda value: value >= 0)
SHARE = real("a number from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_ONE = real("a number from 0 up to, but not including, 1", lambda value: 0 <= value < 1)
