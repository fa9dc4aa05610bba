"""Literal twin of selective weight reinitialization (arXiv 2508.00212): one weight at a time, in float64."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


class TensorSWR:
    """One weight matrix or vector: utilities, running averages, ages and the choice."""

    def __init__(self, shape: tuple[int, ...], decay_rate: float, maturity: int) -> None:
        self.average, self.age = np.zeros(shape), np.zeros(shape, int)
        self.decay_rate, self.maturity = decay_rate, maturity
        self.carried = 0.0

    def update(self, weight: Array, gradient: Array, utility: str) -> Array:
        """Ages and averages after one step -> the utility of each weight."""
        out = np.empty(weight.shape)
        for i in np.ndindex(weight.shape):
            latest = abs(gradient[i] * weight[i]) if utility == "gradient" else abs(weight[i])
            self.age[i] += 1
            self.average[i] = self.decay_rate * self.average[i] + (1 - self.decay_rate) * latest
            out[i] = self.average[i] / (1 - self.decay_rate ** self.age[i])
        return out

    def choose(self, utility: Array, select: str, factor: float) -> list[tuple[int, ...]]:
        """The positions of the chosen weights, which restart."""
        if not utility.any():
            return []
        positions = [i for i in np.ndindex(utility.shape) if self.age[i] > self.maturity]
        if select == "threshold":
            chosen = [i for i in positions if utility[i] <= factor * utility.mean()]
        else:
            due = self.carried + factor * utility.size
            self.carried = due - math.floor(due)
            chosen = sorted(positions, key=lambda i: utility[i])[: math.floor(due)]
        for i in chosen:
            self.age[i], self.average[i] = 0, 0.0
        return chosen
