"""The frictions of a run, the same for every method."""

from __future__ import annotations

import math
from typing import Final

import torch

from ..seeds import stream

LOWEST: Final = 0.02
HIGHEST: Final = 2.0
ORDINARY: Final = 1.0  # that of gymnasium's Ant


def frictions(seed: int, count: int) -> list[float]:
    """``count`` draws, log-uniform in [0.02, 2]: exp(u) with u uniform in [log 0.02, log 2]."""
    uniform = torch.rand(count, generator=stream(seed, "friction"), dtype=torch.float64)
    low, high = math.log(LOWEST), math.log(HIGHEST)
    return [math.exp(low + share * (high - low)) for share in uniform.tolist()]
