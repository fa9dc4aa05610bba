"""What is remembered of a group's units: births, running averages, and how many are old enough to be replaced.

Ages are not counted up: a unit's birth is stored and its age is the number of updates since, so that a step in which
nothing happens writes no ages. How many units are eligible is known on the host from a queue of births, without asking
the device.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor


def correction(age: Tensor, decay_rate: float, dtype: torch.dtype) -> Tensor:
    """1 - decay_rate^age: how much of its weight a running average that began at 0 has; tiny, not 0, at age 0."""
    age = age.to(dtype)
    gathered = -torch.expm1(age * math.log(decay_rate)) if decay_rate else age.clamp_max(1.0)
    return gathered.clamp_min_(torch.finfo(dtype).tiny)


class Averages:
    """Running averages of units that differ in age, and what is known from these alone."""

    decay_rate: float
    utility: Tensor
    mean_features: Tensor
    born: Tensor
    updates: Any  # a number; a tensor where a step is traced into a graph

    @property
    def age(self) -> Tensor:
        """Updates since each unit's birth, int64 (num_units,)."""
        age: Tensor = self.updates - self.born
        return age

    def correction(self, age: Tensor) -> Tensor:
        """As `correction`, with this state's decay rate, in its dtype."""
        return correction(age, self.decay_rate, self.utility.dtype)

    def centre(self, mean: Tensor) -> Tensor:
        """f^ as it will be once ``mean`` is averaged in: what mean-corrected measures subtract; (taps, num_units)."""
        return torch.lerp(self.mean_features, mean, 1.0 - self.decay_rate) / self.correction(self.age + 1)


class UnitState(Averages):
    """State of the ``num_units`` units of one group.

    Attributes:
        utility: running average of the measure, (num_units,), float32 or wider.
        mean_features: running average of each unit's feature, not corrected for age: (taps, num_units), a row for each
            value of the unit that consumers read; most groups have one.
        accumulated: fraction of a unit that is due but not yet replaced; a Python float.
        updates: number of updates so far; ages count in updates.
        eligible: how many units are older than the maturity threshold; a host integer.
        replaced: how many units have been replaced so far.
        nonfinite: how many updates were left out because features or weights were not finite (0-d, on the device).
    """

    updates: int

    def __init__(
        self,
        num_units: int,
        *,
        decay_rate: float,
        maturity_threshold: int,
        averaged: bool,
        like: Tensor,
        taps: int = 1,
        corrected: bool = True,
        exceeding: bool = False,
    ) -> None:
        self.num_units = num_units
        self.decay_rate = decay_rate
        self.maturity_threshold = maturity_threshold
        self.averaged = averaged
        self.corrected = averaged and corrected  # whether units are ranked by averages corrected for age
        self.exceeding = exceeding  # whether a unit is due only when the accumulator exceeds 1
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.utility = torch.zeros(num_units, dtype=dtype, device=like.device)
        self.mean_features = self.utility.new_zeros(taps, num_units)
        self.born = torch.zeros(num_units, dtype=torch.int64, device=like.device)
        self.last_active = torch.zeros_like(self.born)
        self.nonfinite = torch.zeros((), dtype=torch.int64, device=like.device)
        self.nobody = torch.empty(0, dtype=torch.int64, device=like.device)
        self.updates = 0
        self.replaced = 0
        self.accumulated = 0.0
        self.eligible = 0
        self._maturing = deque([(maturity_threshold + 1, num_units)])

    @property
    def corrected_utility(self) -> Tensor:
        """What selection ranks by: utility / (1 - decay_rate^age) (arXiv 2306.13812, Eq. 8), 0 at age 0; the utility
        itself, where the measure is not to be corrected.
        """
        return self.utility / self.correction(self.age) if self.corrected else self.utility

    @property
    def mean_feature(self) -> Tensor:
        """The first row of ``mean_features``: what the first consumer reads, (num_units,)."""
        return self.mean_features[0]

    @property
    def corrected_mean_features(self) -> Tensor:
        """f^ = mean_features / (1 - decay_rate^age) (arXiv 2306.13812, before Eq. 6), 0 at age 0; (taps, num_units)."""
        return self.mean_features / self.correction(self.age)

    @property
    def corrected_mean_feature(self) -> Tensor:
        """The first row of ``corrected_mean_features``, (num_units,)."""
        return self.corrected_mean_features[0]

    @property
    def mature(self) -> Tensor:
        """Which units are eligible: age > maturity_threshold; bool (num_units,)."""
        return self.born < self.updates - self.maturity_threshold

    @property
    def dead(self) -> Tensor:
        """Eligible units whose mean feature was exactly 0 for longer than the maturity threshold; bool (num_units,)."""
        return self.mature & (self.last_active < self.updates - self.maturity_threshold)

    def tick(self) -> None:
        """The host's part of an update: everybody is one older, and some are eligible now."""
        self.updates += 1
        while self._maturing and self._maturing[0][0] <= self.updates:
            self.eligible += self._maturing.popleft()[1]

    def rebirth(self, units: Tensor, *, all_eligible: bool) -> None:
        """Units start anew at age 0. ``all_eligible``: they came from `select`, so the host need not look."""
        self.utility.index_fill_(0, units, 0.0)
        self.mean_features.index_fill_(1, units, 0.0)
        self.born.index_fill_(0, units, self.updates)
        self.last_active.index_fill_(0, units, self.updates)
        self.replaced += len(units)
        if all_eligible:
            self.eligible -= len(units)
            self._maturing.append((self.updates + self.maturity_threshold + 1, len(units)))
        else:
            self.recount()

    def recount(self) -> None:
        """Rebuild the host's queue from the births; reads the device."""
        births, counts = torch.unique(self.born, return_counts=True)
        ripe = [(b + self.maturity_threshold + 1, c) for b, c in zip(births.tolist(), counts.tolist(), strict=True)]
        self.eligible = sum(c for when, c in ripe if when <= self.updates)
        self._maturing = deque((when, c) for when, c in ripe if when > self.updates)

    def next_due(self, rate: float) -> int | None:
        """Updates until a unit is due, if nothing else happens: until the accumulator reaches 1, or exceeds it. None:
        never.
        """
        if rate == 0.0:
            return None
        waiting, eligible, total, now = list(self._maturing), self.eligible, self.accumulated, self.updates
        while True:
            until = waiting[0][0] - 1 if waiting else None
            if eligible:
                total, needed = _until_one(
                    total, rate * eligible, None if until is None else until - now, exceeding=self.exceeding
                )
                if needed is not None:
                    return now + needed - self.updates
            if until is None:
                return None
            now = until
            eligible += waiting.pop(0)[1]

    def lies_with(self, like: Tensor) -> bool:
        """Whether this state is where ``like`` is, and wide enough for its dtype."""
        utility = self.utility
        same = utility.dtype == like.dtype or utility.dtype == torch.promote_types(like.dtype, torch.float32)
        return same and utility.device == like.device

    def follow(self, like: Tensor) -> None:
        """Move to the device of ``like`` and widen to its dtype, after the network was moved."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        for name in ("utility", "mean_features"):
            setattr(self, name, getattr(self, name).to(like.device, dtype))
        for name in ("born", "last_active", "nonfinite", "nobody"):
            setattr(self, name, getattr(self, name).to(like.device))

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything but what the settings and the births tell."""
        return {
            "utility": self.utility.clone(),
            "mean_feature": self.mean_features.squeeze(0).clone(),
            "born": self.born.clone(),
            "last_active": self.last_active.clone(),
            "nonfinite": self.nonfinite.clone(),
            "updates": self.updates,
            "replaced": self.replaced,
            "accumulated": self.accumulated,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from `state_dict`, on this state's device and in its dtype."""
        for name in ("utility", "born", "last_active", "nonfinite"):
            getattr(self, name).copy_(saved[name])  # in place: these are parts of all groups' tensors
        self.mean_features.copy_(saved["mean_feature"].view_as(self.mean_features))
        self.updates, self.replaced = int(saved["updates"]), int(saved["replaced"])
        self.accumulated = float(saved["accumulated"])
        self.recount()


def _until_one(total: float, amount: float, most: int | None, *, exceeding: bool) -> tuple[float, int | None]:
    """Add ``amount`` at most ``most`` times -> (sum, after how many it reached or exceeded 1). Rounded as the
    accumulator is.
    """
    estimate = (1.0 - total) / amount
    if estimate > 100_000:  # too long to be followed to the step
        if most is not None and most < estimate:
            return total + amount * most, None
        return 1.0, math.ceil(min(estimate, 1e300))
    count = 0
    while most is None or count < most:
        total, count = total + amount, count + 1
        if total > 1.0 or (total == 1.0 and not exceeding):
            return total, count
    return total, None
