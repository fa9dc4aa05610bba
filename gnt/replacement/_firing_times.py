"""How long units are silent: the time since each unit last fired, and the times for which it was silent before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnt._utils.state_dicts import MAX_COUNT, Kind, counter, tensor


class FiringTimes:
    """Silent times of the units of one group, in steps, with a threshold for each unit.

    Args:
        num_units: number of units.
        longest: longer times are counted as this one, and no threshold exceeds it.
        device: where the units are.

    Attributes:
        silent: number of steps since each unit last fired, int64 (num_units,).
        counts: how often each unit was silent for 1, ..., ``longest`` steps since the thresholds were set, int32
            (num_units, longest).
        threshold: a unit is reset when it was silent for so many steps, int64 (num_units,).
        updates: number of steps since the thresholds were set.
    """

    def __init__(self, num_units: int, longest: int, device: torch.device) -> None:
        self.silent = torch.zeros(num_units, dtype=torch.int64, device=device)
        self.counts = torch.zeros(num_units, longest, dtype=torch.int32, device=device)
        self.threshold = torch.full_like(self.silent, max(1, longest // 2))
        self.updates = 0

    def update(self, fired: Tensor) -> None:
        """Count a step in which the units where ``fired`` is True have fired: their silent times end."""
        self.updates += 1
        self._count(fired & (self.silent > 0))
        self.silent += 1
        self.silent.masked_fill_(fired, 0)

    def overdue(self, fired: Tensor) -> Tensor:
        """The units that will have been silent for too long after `update` with ``fired``, bool (num_units,)."""
        return (self.silent + 1).masked_fill_(fired, 0) >= self.threshold

    def end(self, units: Tensor) -> None:
        """Units, given as bool (num_units,), were reset: their silent times end, and count."""
        self._count(units)
        self.silent.masked_fill_(units, 0)

    def restart(self, units: Tensor) -> None:
        """Units, given by index, were replaced by something else: their silent times do not count."""
        self.silent.index_fill_(0, units, 0)

    def _count(self, units: Tensor) -> None:
        place = self.silent.clamp(1, self.counts.shape[1]) - 1
        self.counts.scatter_add_(1, place[:, None], units[:, None].to(self.counts.dtype))

    def set_thresholds(self, eta: float) -> None:
        """Set each threshold to the (1 - eta) quantile of the unit's silent times, and restart the counts.

        If that is not below the present one, which has cut times off, the threshold is doubled. If no time has ended,
        the threshold becomes 1 where the unit fired in each step, and stays where it was silent throughout, or there
        were no steps.
        """
        if not self.updates:
            return
        self.updates = 0
        cumulative = self.counts.cumsum(1)
        enough = cumulative >= (1.0 - eta) * cumulative[:, -1:]
        quantile = enough.int().argmax(1) + 1
        longer = (2 * self.threshold).clamp_max(self.counts.shape[1])
        threshold = torch.where(quantile < self.threshold, quantile, longer)
        none_ended = cumulative[:, -1] == 0
        unchanged = torch.where(self.silent > 0, self.threshold, 1)
        self.threshold = torch.where(none_ended, unchanged, threshold)
        self.counts.zero_()

    def move_to(self, device: torch.device) -> None:
        """Move to the device of the network."""
        if self.silent.device != device:
            self.silent, self.counts, self.threshold = (
                each.to(device) for each in (self.silent, self.counts, self.threshold)
            )

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, and copies of all tensors."""
        tensors = {name: getattr(self, name).clone() for name in ("silent", "counts", "threshold")}
        return {**tensors, "updates": self.updates}

    def kinds(self) -> dict[str, Kind]:
        """The kinds of the entries of `state_dict`."""
        longest = self.counts.shape[1]
        return {
            "silent": tensor(self.silent, 0, MAX_COUNT),
            "counts": tensor(self.counts, 0, 2**30),
            "threshold": tensor(self.threshold, 1, longest),
            "updates": counter(),
        }

    def load_checked(self, checked: dict[str, Any]) -> None:
        """Load checked entries."""
        self.silent, self.counts, self.threshold = checked["silent"], checked["counts"], checked["threshold"]
        self.updates = checked["updates"]
