"""Paired t-tests between methods that were run with the same seeds, with Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ..comparison_table import interval_text
from ..display import Metric
from ..summary import Estimate, estimate

LEVEL: Final = 0.05
"""Corrected p-value below which a difference counts."""

WINS, TIES, LOSES = "wins", "ties", "loses"

BySeed = Mapping[int, float]
"""Seed -> the mean of a metric over a part of its run."""


@dataclass(frozen=True)
class Difference:
    """The differences of two methods over the seeds that both have, at least two."""

    values: tuple[float, ...]

    @cached_property
    def estimate(self) -> Estimate:
        """Mean and 95% interval, for this comparison alone."""
        return estimate(self.values)

    @cached_property
    def p(self) -> float:
        """The two-sided p-value of the paired t-test; 1 if all differences are 0."""
        from scipy.stats import t

        mean, half = self.estimate.mean, self.estimate.half
        if not half:
            return 0.0 if mean else 1.0
        freedom = len(self.values) - 1
        return float(2 * t.sf(abs(mean) / half * t.ppf(0.975, freedom), freedom))

    @property
    def higher(self) -> str:
        """For how many seeds the first method is higher."""
        return f"{sum(value > 0 for value in self.values)} of {len(self.values)}"


def difference(own: BySeed, other: BySeed) -> Difference | None:
    """The first minus the second; None if they have fewer than two seeds in common."""
    seeds = sorted(own.keys() & other.keys())
    return Difference(tuple(own[seed] - other[seed] for seed in seeds)) if len(seeds) > 1 else None


def holm(ps: Sequence[float]) -> list[float]:
    """p-values, corrected for their number (Holm 1979): n - k + 1 times the k-th smallest of n, but at least as large
    as the smaller ones after correction, and at most 1.

    >>> holm([0.03, 0.01, 0.5])
    [0.06, 0.03, 0.5]
    """
    corrected, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = least
    return corrected


@dataclass(frozen=True)
class Tested:
    """A difference, and its p-value, corrected for the number of differences that were tested with it."""

    difference: Difference
    p: float

    def verdict(self, *, higher_is_better: bool) -> str:
        """`WINS`, `TIES` (no difference was shown) or `LOSES`, for the first method."""
        if self.p >= LEVEL:
            return TIES
        return WINS if (self.difference.estimate.mean > 0) == higher_is_better else LOSES


def against_others(method: str, last: Mapping[str, BySeed], planned: str = "") -> dict[str, Tested]:
    """A method against every other one that has two seeds in common with it, corrected for their number.

    Args:
        method: the method; without values in ``last`` nothing is tested.
        last: method -> its values by seed.
        planned: a method whose comparison was planned before there were results: it is not corrected, and not counted.
    """
    own = last.get(method, {})
    found = {other: difference(own, its) for other, its in last.items() if other != method}
    kept = {other: each for other, each in found.items() if each is not None}
    counted = {other: each.p for other, each in kept.items() if other != planned}
    corrected = dict(zip(counted, holm(list(counted.values())), strict=True))
    return {other: Tested(each, corrected.get(other, each.p)) for other, each in kept.items()}


def signed_text(value: Estimate, metric: Metric) -> str:
    """A difference and its interval, with its sign.

    >>> signed_text(Estimate(0.5, 0.25), Metric("", "")), signed_text(Estimate(-0.5, None), Metric("", ""))
    ('+0.500 ± 0.250', '-0.500')
    """
    text = interval_text(value, metric)
    return text if text.startswith("-") else f"+{text}"
