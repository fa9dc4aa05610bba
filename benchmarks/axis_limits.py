"""The range of a panel's vertical axis, and that of its bands."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .display import Metric

DIVERGED = 1000.0  # means larger than this many times the median do not count for the limits
_NEAR_PERCENT, _NEAR = 50.0, 0.6  # lowest value, in percent or relative to the highest, from which axes start near it
_MARGIN = 0.05

Points = Sequence[tuple[float, float]]
"""Mean and half-width of the interval, of all curves of a panel; percentages from 0 to 100."""


def band_limits(points: Points, metric: Metric) -> tuple[float, float]:
    """The lowest and highest possible value of a metric: 0 to 100 for percentages; others have none.

    Percentages with a negative mean are differences, and may be down to -100.

    >>> share = Metric("", "", percent=True)
    >>> band_limits([(95.0, 9.0)], share), band_limits([(-1.0, 9.0)], share)
    ((0.0, 100.0), (-100.0, 100.0))
    >>> band_limits([(95.0, 9.0)], Metric("", ""))
    (-inf, inf)
    """
    if not metric.percent:
        return -math.inf, math.inf
    return (-100.0 if any(mean < 0 for mean, _ in points) else 0.0), 100.0


def value_limits(
    points: Points, metric: Metric, *, chance: float | None = None, unbounded: bool = False
) -> tuple[float, float] | None:
    """The limits of the axis, or None to leave them to matplotlib.

    Percentages go from 0 to 100, other values from 0, unless some are negative. If all values are alike, the axis
    starts near them: for percentages if bands and ``chance`` are above 50%, for others if the lowest is over 0.6 times
    the highest. A run that diverges does not set the limits.

    Args:
        points: what the panel shows.
        metric: the metric.
        chance: a value that must be visible as well.
        unbounded: whether means far above the others are valid results, such as returns, and count.

    >>> share = Metric("", "", percent=True)
    >>> value_limits([(97.0, 2.0), (99.0, 5.0)], share)
    (89.8, 100.2)
    >>> value_limits([(97.0, 2.0), (30.0, 5.0)], share)
    (-2.0, 102.0)
    >>> value_limits([(0.1, 0.0), (0.2, 0.0), (3e25, 9e25)], Metric("", ""))  # doctest: +ELLIPSIS
    (0.0, 0.21...)
    >>> value_limits([(0.7, 0.0), (0.8, 0.0)], Metric("", ""), chance=0.5)  # doctest: +ELLIPSIS
    (0.4..., 0.84...)
    """
    points = [(mean, half) for mean, half in points if math.isfinite(mean + half)]
    if metric.percent:
        low = min((mean - half for mean, half in points), default=0.0)
        low = min(low, low if chance is None else chance)
        least = min((mean for mean, _ in points), default=0.0)
        bottom = 10.0 * math.floor((low - 1) / 10) if low >= _NEAR_PERCENT else min(0.0, 10.0 * math.floor(least / 10))
        bottom = 0.0 if -2.0 < least < 0 else bottom  # within the margin
        margin = 0.02 * (100.0 - bottom)
        return round(bottom - margin, 6), round(100.0 + margin, 6)
    shown = list(points if unbounded else _without_diverged(points))
    shown += [(chance, 0.0)] if chance is not None and shown else []
    if not shown:
        return None
    low, high = min(mean - half for mean, half in shown), max(mean + half for mean, half in shown)
    least = min(mean for mean, _ in shown)
    if low > _NEAR * high:
        margin = max(0.1 * (high - low), _MARGIN * high)
        return low - margin, high + margin
    margin = _MARGIN * (high - min(low, 0.0))
    bottom = low - margin if least < 0 else 0.0
    return (bottom, high + margin) if high > bottom else None


def _without_diverged(points: Points) -> Points:
    """Without means that are far above the lower median."""
    sizes = sorted(abs(mean) for mean, _ in points)
    usual = sizes[(len(sizes) - 1) // 2] if sizes else 0.0
    return [(mean, half) for mean, half in points if not usual or abs(mean) <= DIVERGED * usual]
