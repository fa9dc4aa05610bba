"""The stream of inputs of Slowly-Changing Regression."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from ..saved_tensors import like, random_state
from ..saved_values import fields, integer
from ..seeds import stream

BITS: Final = 20
SLOW: Final = 15


class Inputs:
    """The stream of inputs: 15 slow bits, which change every ``flip_every`` steps, and 5 bits drawn in each step."""

    def __init__(self, seed: int, flip_every: int, variant: str) -> None:
        self._flip_every, self._variant = flip_every, variant
        self._slow_stream, self._fast_stream = stream(seed, "slow bits"), stream(seed, "fast bits")
        self._slow = torch.randint(0, 2, (SLOW,), generator=self._slow_stream).float()
        self._step = 0

    def take(self, count: int) -> Tensor:
        """The next ``count`` inputs, (count, 20)."""
        bits = torch.empty(count, BITS)
        start = 0
        while start < count:
            since_change = self._step % self._flip_every
            if self._step and not since_change:
                self._change()
            end = min(count, start + self._flip_every - since_change)
            bits[start:end, :SLOW] = self._slow
            self._step += end - start
            start = end
        bits[:, SLOW:] = torch.randint(0, 2, (count, BITS - SLOW), generator=self._fast_stream)
        return bits

    def _change(self) -> None:
        if self._variant == "one_bit":
            bit = torch.randint(SLOW, (1,), generator=self._slow_stream)
            self._slow[bit] = 1 - self._slow[bit]
        else:
            self._slow = torch.randint(0, 2, (SLOW,), generator=self._slow_stream).float()

    def state_dict(self) -> dict[str, Any]:
        """The state that the next inputs depend on."""
        return {
            "step": self._step,
            "slow": self._slow,
            "slow_stream": self._slow_stream.get_state(),
            "fast_stream": self._fast_stream.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises ValueError if a value is missing or is not of its kind."""
        kinds = {"step": integer(0), "slow": like(self._slow, 0, 1)}
        fields(**kinds, slow_stream=random_state, fast_stream=random_state)("inputs", state)
        self._step, self._slow = state["step"], state["slow"]
        self._slow_stream.set_state(state["slow_stream"])
        self._fast_stream.set_state(state["fast_stream"])
