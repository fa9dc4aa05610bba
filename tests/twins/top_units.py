"""Literal twin of `gnt.protection.TopUnits`: one unit at a time."""

from __future__ import annotations

from collections.abc import Sequence

import gnt
from tests.twins.protection import ProtectedLayer


class TopLayer(ProtectedLayer):
    """Ages, long-term importances and held units of one layer."""

    def __init__(self, num_units: int, top: gnt.TopUnits) -> None:
        super().__init__(num_units)
        self.top, self.updates, self.held = top, 0, list[int]()
        self.importance, self.counts = [0.0] * num_units, [0] * num_units

    def choose(self, utility: Sequence[float], protection: Sequence[float], maturity: int) -> None:
        """After an update: I <- d' I + (1 - d') v, or max(d' I, v); then hold the units of highest I."""
        self.updates += 1
        if self.updates % self.top.every:
            return
        n, decay = len(utility), self.top.decay_rate**self.top.every
        mean = sum(abs(u) for u in utility) / n
        corrected = []
        for i in range(n):
            v = utility[i] / mean if mean else 0.0
            self.counts[i] += 1
            if self.top.average == "max":
                self.importance[i] = max(decay * self.importance[i], v)
                corrected.append(self.importance[i])
            else:
                self.importance[i] = decay * self.importance[i] + (1 - decay) * v
                corrected.append(self.importance[i] / (1 - decay ** self.counts[i]))
        candidates = [i for i, age in enumerate(self.age) if age > maturity and protection[i] < 1]
        rank = {i: corrected[i] * (1 + self.top.margin * (i in self.held)) for i in candidates}
        most = int(self.top.fraction * n + 1e-9)
        self.held = sorted(sorted(candidates, key=lambda i: -rank[i])[:most])

    def restart(self, units: Sequence[int]) -> None:
        """New units have no importance and are not held."""
        for i in units:
            self.age[i], self.importance[i], self.counts[i] = 0, 0.0, 0
        self.held = [i for i in self.held if i not in units]

    def release(self, protection: Sequence[float]) -> None:
        """Units that other objects protect are not held besides."""
        self.held = [i for i in self.held if protection[i] < 1]

    def with_held(self, protection: Sequence[float]) -> list[float]:
        """The protection by other objects, and 1 for held units."""
        return [1.0 if i in self.held else p for i, p in enumerate(protection)]
