"""Literal twin of soft replacement (CCBP): one unit at a time, in float64, for a list of linear layers."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


class SoftLayer:
    """A hidden layer: running utilities and mean features, and the moves."""

    def __init__(self, units: int, *, rate: float, steepness: float, decay_rate: float, maturity: int) -> None:
        self.rate, self.steepness, self.decay_rate, self.maturity = rate, steepness, decay_rate, maturity
        self.utility, self.mean, self.age = np.zeros(units), np.zeros(units), 0

    def update(self, features: Array, gradient: Array) -> None:
        """One update with the features (batch, units) and the gradient of the incoming weights (units, inputs)."""
        self.age += 1
        magnitudes = [np.abs(row).mean() for row in gradient]
        for i in range(len(self.utility)):
            latest = magnitudes[i] / np.mean(magnitudes)
            self.utility[i] = self.decay_rate * self.utility[i] + (1 - self.decay_rate) * latest
            self.mean[i] = self.decay_rate * self.mean[i] + (1 - self.decay_rate) * features[:, i].mean()

    def move(self, w_in: Array, bias: Array, w_out: Array, bias_out: Array | None, fresh: Array) -> None:
        """Move all units towards fresh ones, in place. ``bias_out``: the consumers' bias; None: no transfer."""
        correction = 1 - self.decay_rate**self.age
        mean_utility = np.mean(self.utility)
        for i in range(len(self.utility)):
            relative = self.utility[i] / mean_utility
            alpha = self.rate / (1 + math.exp(self.steepness * (relative - 1)))
            if self.maturity:
                alpha *= min(self.age / self.maturity, 1)
            if bias_out is not None:
                bias_out += alpha * w_out[:, i] * self.mean[i] / correction
            w_out[:, i] *= 1 - alpha
            w_in[i] = (1 - alpha) * w_in[i] + alpha * fresh[i]
            bias[i] *= 1 - alpha
            self.utility[i] += alpha * (mean_utility - self.utility[i])
