"""The target network of Slowly-Changing Regression."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ..seeds import stream
from .inputs import BITS

UNITS: Final = 100
BETA: Final = 0.7


class Target:
    """20 bits -> 100 linear threshold units -> 1 number. All weights and biases are -1 or 1 and never change.

    With m bits, a unit with weights w and bias b has output 1[w.x + b > tau], where tau = beta (m + 1) - S and
    S = (m - sum(w) + b) / 2 (the sign of b is that of the authors' code; without b, S is the number of negative
    weights).
    """

    def __init__(self, seed: int) -> None:
        generator = stream(seed, "target")

        def signs(*shape: int) -> Tensor:
            return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1

        self.weight, self.bias = signs(UNITS, BITS), signs(UNITS)
        self.out_weight, self.out_bias = signs(UNITS), signs(1)
        self.threshold = BETA * (BITS + 1) - (BITS - self.weight.sum(1) + self.bias) / 2

    def __call__(self, bits: Tensor) -> Tensor:
        """Targets (n, 1) of inputs (n, 20)."""
        fires = (bits @ self.weight.T + self.bias > self.threshold).float()
        return (fires @ self.out_weight + self.out_bias)[:, None]
