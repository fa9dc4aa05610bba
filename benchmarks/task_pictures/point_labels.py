"""Labels beside points, at places where they overlap neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_DISTANCES = (9.0, 16.0, 26.0, 40.0, 56.0, 76.0)  # from a point to the nearest edge of its label
_DIRECTIONS = 16


class Box(NamedTuple):
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """The area that it shares with another."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, wide) * max(0.0, high)


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    whole: Box,
) -> list[Box]:
    """A place for the label of each point: the nearest that is free, or else the one that overlaps least.

    Args:
        points: where the points are.
        sizes: width and height of their labels.
        obstacles: what must not be covered besides.
        whole: where labels may be.

    >>> free = Box(-100.0, -100.0, 100.0, 100.0)
    >>> first, second = place_labels([(0.0, 0.0), (0.0, 0.0)], [(20.0, 8.0)] * 2, [], free)
    >>> first.left, first.overlap(second)
    (9.0, 0.0)
    """
    placed: list[Box] = []
    for (x, y), (wide, high) in zip(points, sizes, strict=True):
        best: tuple[float, Box] | None = None
        for distance in _DISTANCES:
            for number in range(_DIRECTIONS):
                box = _beside(x, y, wide, high, distance, 2 * math.pi * number / _DIRECTIONS)
                outside = wide * high - box.overlap(whole)
                cost = 10 * outside + sum(box.overlap(other) for other in [*placed, *obstacles])
                if best is None or cost < best[0] - 1e-6:
                    best = cost, box
            if best is not None and best[0] <= 1e-6:
                break
        assert best is not None
        placed.append(best[1])
    return placed


def _beside(x: float, y: float, wide: float, high: float, distance: float, angle: float) -> Box:
    """A box in a direction from a point, with this distance between the point and its edge."""
    across, up = math.cos(angle), math.sin(angle)
    reach = min(
        (wide / 2) / abs(across) if abs(across) > 1e-9 else math.inf,
        (high / 2) / abs(up) if abs(up) > 1e-9 else math.inf,
    )
    away = distance + reach
    left, bottom = x + away * across - wide / 2, y + away * up - high / 2
    return Box(left, bottom, left + wide, bottom + high)
