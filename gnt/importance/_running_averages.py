"""Running averages per unit, for units that differ in age.

Ages are not counted up: each unit stores the number of the update after which it started (``born``), and its age is the
number of updates since. A step in which nothing happens therefore writes no ages.

A group counts its own updates: a step in which it takes no part changes nothing of it. If a group takes part, but one
of its taps has no features in the step, the mean features of this tap stay as they are, and the tap does not count the
update (``missed``): f^ is the average over the updates in which the tap had features.

With ``measure_every`` k > 1 only every k-th update of the group is measured, and has weight 1 - decay_rate^k.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gnt._utils.state_dicts import MAX_COUNT, Kind, check_entries, counter, tensor


def age_correction(age: Tensor, decay_rate: float, dtype: torch.dtype) -> Tensor:
    """1 - decay_rate^age, the total weight in a running average that started at 0; a tiny positive number at age 0."""
    age = age.to(dtype)
    total = -torch.expm1(age * math.log(decay_rate)) if decay_rate else age.clamp_max(1.0)
    return total.clamp_min_(torch.finfo(dtype).tiny)


class AgedAverages:
    """Formulas that need only averages, ages and the decay rate. ``updates`` is a tensor if a step is traced."""

    decay_rate: float
    measure_every: int
    utility: Tensor
    mean_features: Tensor
    born: Tensor
    missed: Tensor | None
    updates: Any

    @property
    def age(self) -> Tensor:
        """Number of updates since each unit started, int64 (num_units,)."""
        age: Tensor = self.updates - self.born
        return age

    @property
    def measured_age(self) -> Tensor:
        """Number of measured updates since each unit started, int64 (num_units,)."""
        if self.measure_every == 1:
            return self.age
        number: Tensor = self.updates // self.measure_every - self.born // self.measure_every
        return number

    @property
    def measured_decay(self) -> float:
        """The decay rate from one measured update to the next."""
        return self.decay_rate**self.measure_every

    def correction(self, measured_age: Tensor) -> Tensor:
        """`age_correction` with the decay rate and dtype of these averages."""
        return age_correction(measured_age, self.measured_decay, self.utility.dtype)

    def center(self, mean: Tensor) -> Tensor:
        """f^ after ``mean`` has entered the average, which mean-corrected measures subtract; (taps, num_units)."""
        return torch.lerp(self.mean_features, mean, 1.0 - self.measured_decay) / self.correction(self.feature_age + 1)

    @property
    def feature_age(self) -> Tensor:
        """Number of updates in each mean feature: (num_units,), or (taps, num_units) with several taps."""
        return self.measured_age if self.missed is None else self.measured_age - self.missed


class RunningAverages(AgedAverages):
    """Running averages of the measure and of the mean feature of each unit of one group.

    Attributes:
        num_units: number of units.
        decay_rate: of the running averages, per update.
        measure_every: k; the updates whose number is a multiple of k are measured.
        averaged: rank units by the running average of the measure, or else by its latest value.
        over_task: the running average is the mean over all updates since the unit started, which needs no correction;
            ``averaged`` is False.
        corrected: divide the running average by the age correction.
        utility: running average of the measure, (num_units,), float32 or wider.
        mean_features: running average of each unit's feature, without age correction: (taps, num_units), one row for
            each different value of the unit that consumers read; most groups have one.
        born: the number of the update after which each unit started, int64 (num_units,).
        last_active: the number of the last update in which the unit's mean feature was not 0, int64 (num_units,).
        missed: with several taps, the number of measured updates since each unit started in which the tap had no
            features, int64 (taps, num_units); None with one tap.
        nonfinite: number of updates left out because features or weights were not finite (0-d, on the device).
        updates: number of updates so far; ages count in updates.
        no_units: an empty index tensor.
    """

    updates: int

    def __init__(
        self,
        num_units: int,
        *,
        decay_rate: float,
        averaged: bool,
        corrected: bool,
        like: Tensor,
        taps: int = 1,
        over_task: bool = False,
        measure_every: int = 1,
    ) -> None:
        self.num_units = num_units
        self.decay_rate, self.measure_every = decay_rate, measure_every
        self.averaged, self.over_task = averaged, over_task
        self.corrected = averaged and corrected
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.utility = torch.zeros(num_units, dtype=dtype, device=like.device)
        self.mean_features = self.utility.new_zeros(taps, num_units)
        self.born = torch.zeros(num_units, dtype=torch.int64, device=like.device)
        self.last_active = torch.zeros_like(self.born)
        self.missed = self.born.new_zeros(taps, num_units) if taps > 1 else None
        self.nonfinite = torch.zeros((), dtype=torch.int64, device=like.device)
        self.no_units = torch.empty(0, dtype=torch.int64, device=like.device)
        self.updates = 0

    @property
    def corrected_utility(self) -> Tensor:
        """Utility that selection ranks by, (num_units,): utility / (1 - decay_rate^age) (arXiv 2306.13812, Eq. 8).

        It is 0 before the first measured update, and the utility itself if the measure is not corrected for age.
        """
        return self.utility / self.correction(self.measured_age) if self.corrected else self.utility

    @property
    def measures_next(self) -> bool:
        """True if features and measure enter the averages in the next update."""
        return (self.updates + 1) % self.measure_every == 0

    @property
    def mean_feature(self) -> Tensor:
        """First row of ``mean_features``: the value that the first consumer reads, (num_units,)."""
        return self.mean_features[0]

    @property
    def corrected_mean_features(self) -> Tensor:
        """f^ = mean_features / (1 - decay_rate^age) (arXiv 2306.13812, before Eq. 6), 0 at age 0; (taps, num_units).

        The age here is that of the average: updates in which the tap had no features do not count.
        """
        return self.mean_features / self.correction(self.feature_age)

    @property
    def corrected_mean_feature(self) -> Tensor:
        """First row of ``corrected_mean_features``, (num_units,)."""
        return self.corrected_mean_features[0]

    def restart(self, units: Tensor) -> None:
        """Set averages and ages of ``units`` to those of a new unit."""
        self.utility.index_fill_(0, units, 0.0)
        self.mean_features.index_fill_(1, units, 0.0)
        self.born.index_fill_(0, units, self.updates)
        self.last_active.index_fill_(0, units, self.updates)
        if self.missed is not None:
            self.missed.index_fill_(1, units, 0)

    def miss(self, tap: int) -> None:
        """Count an update in which a tap, one of several, had no features."""
        assert self.missed is not None
        self.missed[tap] += 1

    def missed_by_feature(self) -> Tensor:
        """``missed``, or zeros, in the shape of the mean features."""
        return torch.zeros_like(self.mean_features, dtype=torch.int64) if self.missed is None else self.missed

    def move_to(self, like: Tensor) -> None:
        """Move to the device of ``like`` and widen to its dtype."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        for name in ("utility", "mean_features"):
            setattr(self, name, getattr(self, name).to(like.device, dtype))
        for name in ("born", "last_active", "nonfinite", "no_units"):
            setattr(self, name, getattr(self, name).to(like.device))
        self.missed = None if self.missed is None else self.missed.to(like.device)

    def state_dict(self) -> dict[str, Any]:
        """Copies of the tensors, and the number of updates."""
        return {
            "utility": self.utility.clone(),
            "mean_feature": self.mean_features.squeeze(0).clone(),
            "born": self.born.clone(),
            "last_active": self.last_active.clone(),
            "nonfinite": self.nonfinite.clone(),
            "updates": self.updates,
            **({} if self.missed is None else {"missed": self.missed.clone()}),
        }

    def checked_state(self, saved: Any, where: str = "", most_updates: int = MAX_COUNT) -> dict[str, Any]:
        """Check what `state_dict` returned -> the entries, ready for `load_checked`. Changes nothing; reads the device.

        Args:
            saved: the value to check.
            where: what it is the state of, for error messages.
            most_updates: the largest possible number of updates.

        Raises:
            ValueError: an entry is missing, of another shape or kind, or out of range.
        """
        updates = counter(most_updates, "" if most_updates == MAX_COUNT else ", the engine's number of updates")
        kinds = self._kinds(check_entries(saved, {"updates": updates}, where)["updates"])
        if self.missed is not None and "missed" not in saved:  # saved before taps could miss updates
            saved = {**saved, "missed": torch.zeros_like(self.missed)}
        checked = check_entries(saved, {"updates": updates, **kinds}, where)
        every = self.measure_every
        age = checked["updates"] // every - checked["born"] // every - checked.get("missed", 0)
        if (age < 0).any():
            raise ValueError(f"state_dict has 'missed'{where} with more updates than the units' ages")
        if not torch.isfinite(checked["mean_feature"] / self.correction(age)).all():
            raise ValueError(f"state_dict has 'mean_feature'{where} with values too large for {self.utility.dtype}")
        return checked

    def _kinds(self, updates: int) -> dict[str, Kind]:
        """The kinds of the entries besides "updates", if that is ``updates``."""
        missed = {} if self.missed is None else {"missed": tensor(self.missed, 0, updates)}
        return {
            **missed,
            "utility": tensor(self.utility),
            "mean_feature": tensor(self.mean_features.squeeze(0)),
            "born": tensor(self.born, 0, updates),
            "last_active": tensor(self.last_active, 0, updates),
            "nonfinite": tensor(self.nonfinite, 0, updates),
        }

    def load_checked(self, checked: dict[str, Any]) -> None:
        """Load the result of `checked_state`."""
        for name in ("utility", "born", "last_active", "nonfinite"):
            getattr(self, name).copy_(checked[name])  # in place: these are views of the tensors of all groups
        self.mean_features.copy_(checked["mean_feature"].view_as(self.mean_features))
        if self.missed is not None:
            self.missed.copy_(checked["missed"])
        self.updates = checked["updates"]

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load what `state_dict` returned, on this object's device and in its dtype.

        Raises:
            ValueError: as `checked_state`. Nothing is changed.
        """
        self.load_checked(self.checked_state(saved))
