"""Literal twin of SNR (arXiv 2410.20098): one unit at a time, with lists of silent times."""

from __future__ import annotations

import math
from collections.abc import Sequence


class SilentUnit:
    """One unit: its silent time, the times that ended, and its threshold."""

    def __init__(self, eta: float, longest: int) -> None:
        self.eta, self.longest = eta, longest
        self.silent, self.threshold = 0, max(1, longest // 2)
        self.ended: list[int] = []

    def step(self, features: Sequence[float]) -> bool:
        """One step with the unit's features in a batch; True if it is to be replaced."""
        if any(value > 0 for value in features):
            if self.silent:
                self.ended.append(min(self.silent, self.longest))
            self.silent = 0
            return False
        self.silent += 1
        if self.silent < self.threshold:
            return False
        self.ended.append(min(self.silent, self.longest))
        self.silent = 0
        return True

    def estimate(self) -> None:
        """The smallest time that a share 1 - eta of the ended times does not exceed."""
        times = sorted(self.ended)
        if not times:  # silent throughout: nothing is known; or it fired in each step
            self.threshold = self.threshold if self.silent else 1
            return
        needed = (1 - self.eta) * len(times)
        quantile = times[max(math.ceil(needed), 1) - 1]
        self.threshold = quantile if quantile < self.threshold else min(2 * self.threshold, self.longest)
        self.ended = []
