"""How fast settings renew units in the long run, as numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gnt._utils.plain_numbers import plain
from gnt._utils.validation import to_float


def replaced_per_update(
    units: int, replacement_rate: float, maturity_threshold: int, *, at_most_one: bool = False
) -> float:
    """Expected number of units that a group replaces per update in the long run::

        rate * units / (1 + rate * threshold)

    A unit waits for ``threshold`` updates, and then for 1 / rate on average, so that the share 1 / (1 + rate *
    threshold) of the units is eligible at any time.

    Args:
        units: number of units that can be replaced.
        replacement_rate, maturity_threshold: settings of `GnT`.
        at_most_one: one unit at most is replaced in an update (``accumulate="one"``).

    >>> replaced_per_update(100, 0.01, 100)
    0.5
    """
    if not replacement_rate or not units:
        return 0.0
    replaced = replacement_rate * units / (1.0 + replacement_rate * to_float(maturity_threshold))
    return min(replaced, 1.0) if at_most_one else replaced


def lifetime(replacement_rate: float, maturity_threshold: int) -> float:
    """Mean number of updates from a unit's start to its replacement, threshold + 1 / rate."""
    return to_float(maturity_threshold) + (1.0 / replacement_rate if replacement_rate else math.inf)


def describe_renewal(
    units: Iterable[int], replacement_rate: float, maturity_threshold: int, *, at_most_one: bool = False
) -> str:
    """The pace of an engine in one sentence; empty if nothing is ever replaced.

    Args:
        units: for each group, the number of units that can be replaced.
        replacement_rate, maturity_threshold, at_most_one: as for `replaced_per_update`.
    """
    counts = list(units)
    pace = math.fsum(
        replaced_per_update(count, replacement_rate, maturity_threshold, at_most_one=at_most_one) for count in counts
    )
    if not pace:
        return ""
    total = f"{sum(counts):,} units"
    often = (
        f"one of {total} is replaced every {plain(1.0 / pace)} updates"
        if pace < 1.0
        else f"{plain(pace)} of {total} are replaced in each update"
    )
    lives = lifetime(replacement_rate, maturity_threshold)
    return (
        f"in the long run {often}: a unit is renewed after about {plain(lives)} updates, "
        f"{plain(to_float(maturity_threshold))} of which it is too young"
    )
