"""The control: a measure that knows nothing of the unit."""

from __future__ import annotations

from torch import Tensor

from gnt.importance._signals import Signals


def random(signals: Signals) -> Tensor:
    """Uniform in [0, 1)."""
    return signals.uniform()
