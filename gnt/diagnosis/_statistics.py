"""Means over seeds with their confidence intervals, without scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95% confidence interval (Student's t).

    Attributes:
        mean: the mean.
        low, high: ends of the interval.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of one value per seed: mean +- t(0.975, n - 1) s / sqrt(n), n >= 2.

    >>> print(estimate([1.0, 2.0, 3.0]))
    2 [-0.484, 4.48]
    """
    n = len(values)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1) * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half)


def t_quantile(degrees_of_freedom: int, within: float = 0.95) -> float:
    """The t within which Student's distribution holds a share ``within``, by bisection."""
    low, high = 0.0, 1.0
    while _share_within(high, degrees_of_freedom) < within:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2.0
        if _share_within(middle, degrees_of_freedom) < within:
            low = middle
        else:
            high = middle
    return high


def _share_within(t: float, n: int) -> float:
    """P(|T| <= t) for n degrees of freedom; Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3-4."""
    angle = math.atan(t / math.sqrt(n))
    square, odd = math.cos(angle) ** 2, n % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range((n - odd) // 2):
        if k:
            term *= square * (2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k))
        total += term
    total *= math.sin(angle)
    return 2.0 / math.pi * (angle + total) if odd else total
