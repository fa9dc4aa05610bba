"""Importance of the units of one group over a time that is long beside the engine's running averages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnt._utils.state_dicts import MAX_COUNT, Kind, tensor
from gnt.importance import age_correction


class LongTermImportance:
    """A running average of each unit's importance, and how often it was updated.

    Attributes:
        values: the average, without correction, (num_units,).
        counts: number of updates since the unit started, int64 (num_units,).
    """

    def __init__(self, like: Tensor) -> None:
        self.values = torch.zeros_like(like)
        self.counts = torch.zeros_like(like, dtype=torch.int64)

    def update(self, values: Tensor, decay: float, average: str) -> Tensor:
        """Let new values (num_units,) enter -> the corrected importances.

        Args:
            values: the new values.
            decay: decay rate of the average.
            average: "ema", an exponential moving average, or "max", the maximum with the decayed one.
        """
        self.counts += 1
        if average == "max":
            self.values = torch.maximum(self.values * decay, values.to(self.values))
            return self.values
        self.values.lerp_(values.to(self.values), 1.0 - decay)
        return self.values / age_correction(self.counts, decay, self.values.dtype)

    def restart(self, units: Tensor) -> None:
        """Set the importance of new units to 0."""
        self.values.index_fill_(0, units, 0.0)
        self.counts.index_fill_(0, units, 0)

    def carry(self, before: LongTermImportance, new: Tensor, old: Tensor) -> None:
        """Take over the units that stay when an engine is bound to a changed network."""
        self.values[new] = before.values[old].to(self.values)
        self.counts[new] = before.counts[old].to(self.counts)

    def move_to(self, like: Tensor) -> None:
        """Move to the device and dtype of ``like``."""
        self.values, self.counts = self.values.to(like), self.counts.to(like.device)

    def state_dict(self) -> dict[str, Any]:
        """Copies of the tensors."""
        return {"long_term": self.values.clone(), "long_term_counts": self.counts.clone()}

    def kinds(self) -> dict[str, Kind]:
        """The kinds of the entries."""
        return {"long_term": tensor(self.values), "long_term_counts": tensor(self.counts, 0, MAX_COUNT)}

    def load_checked(self, checked: dict[str, Any]) -> None:
        """Load checked entries."""
        self.values, self.counts = checked["long_term"], checked["long_term_counts"]
