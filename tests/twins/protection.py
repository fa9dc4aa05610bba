"""Literal twin of selection with protected units: one unit at a time."""

from __future__ import annotations

from collections.abc import Sequence


class ProtectedLayer:
    """Ages and accumulator of the units of one layer."""

    def __init__(self, num_units: int) -> None:
        self.age = [0] * num_units
        self.accumulated = 0.0

    def eligible(self, protection: Sequence[float], maturity: int) -> list[int]:
        """The units that are older than the maturity threshold and not protected."""
        return [i for i, age in enumerate(self.age) if age > maturity and protection[i] < 1]

    def select(self, utility: Sequence[float], protection: Sequence[float], rate: float, maturity: int) -> list[int]:
        """The units that are due, lowest u / (1 - p) first; the accumulator c increases by rate * eligible."""
        eligible = self.eligible(protection, maturity)
        self.accumulated += rate * len(eligible)
        due = int(self.accumulated)
        self.accumulated -= due
        return sorted(eligible, key=lambda i: utility[i] / (1 - protection[i]))[:due]
