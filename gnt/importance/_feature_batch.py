"""FeatureBatch: the features of one update, for all groups, checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from gnt.distributed.process_group import Processes
from gnt.importance._statistics import GroupStatistics, TapStatistics
from gnt.units import Slot, UnitGroup

Features = Sequence[Tensor | Sequence[Tensor]]  # as a user gives them
OtherLayouts = dict[int, list[tuple[Slot, list[Tensor]]]]  # by the number of the tap


class FeatureBatch:
    """The features of one update, for all groups, checked.

    Attributes:
        per_tap: for each tap the features of its forwards.
        plain: for each tap its only feature, if there is exactly one and it is a plain, non-empty tensor; else None.
        absent: numbers of the groups without samples, which take no part in the update.
        unmeasured: numbers of the groups whose measure is not due: their features do not count. Those that are not
            absent take part all the same.
        recorded_nothing: if nothing was recorded, the message of the error, unless another process has features.
    """

    def __init__(
        self,
        groups: Sequence[UnitGroup],
        per_tap: list[list[Tensor]],
        plain: list[Tensor | None],
        other_layouts: Mapping[int, list[tuple[Slot, list[Tensor]]]] | None = None,
        recorded_nothing: str | None = None,
        gradient_scale: Tensor | None = None,
        unmeasured: frozenset[int] = frozenset(),
        ran: frozenset[int] = frozenset(),
    ) -> None:
        self._gradient_scale = gradient_scale
        self._groups, self.per_tap, self.plain = groups, per_tap, plain
        self._other_layouts = dict(other_layouts or {})
        self._statistics: list[GroupStatistics] | None = None
        self.absent: frozenset[int] = frozenset()
        self.unmeasured, self._ran = unmeasured, ran
        self.recorded_nothing = recorded_nothing

    @property
    def empty(self) -> bool:
        """True if no group has any samples (an empty last batch)."""
        return len(self.absent) == len(self._groups)

    @property
    def resting(self) -> frozenset[int]:
        """Numbers of the groups that take part and are not measured: their units age."""
        return self.unmeasured - self.absent

    @property
    def all_unmeasured(self) -> bool:
        """True if no group is measured in this update."""
        return len(self.unmeasured) == len(self._groups)

    @property
    def statistics(self) -> list[GroupStatistics]:
        """For each group the statistics of its features; created on first use."""
        if self._statistics is None:
            taps = iter(enumerate(self.per_tap))
            self._statistics = [
                GroupStatistics(self._tap_statistics(*next(taps), slot, group) for slot in group.taps)
                for group in self._groups
            ]
        return self._statistics

    def _tap_statistics(self, number: int, features: list[Tensor], slot: Slot, group: UnitGroup) -> TapStatistics:
        others = self._other_layouts.get(number, ())
        dtype = group.state.utility.dtype
        return TapStatistics(features, slot, dtype, others, group.name, self._gradient_scale)

    def leave_out(self, numbers: Collection[int]) -> None:
        """Drop the features of these groups, which then take no part in the update."""
        taps = [number for number, group in enumerate(self._groups) for _ in group.taps]
        left_out = [tap for tap, number in enumerate(taps) if number in numbers]
        for tap in left_out:
            self.per_tap[tap], self.plain[tap] = [], None
        self._other_layouts = {tap: each for tap, each in self._other_layouts.items() if tap not in left_out}
        self._statistics, self._ran = None, self._ran - frozenset(numbers)
        self.find_absent()

    def find_absent(self) -> None:
        """Set ``absent``, from the number of samples of each group, and from which of those not measured ran."""
        sizes = enumerate(self.statistics)
        self.absent = frozenset(number for number, group in sizes if not (number in self._ran or group.size))

    def find_resting(self, processes: Processes) -> None:
        """Set which of the groups that are not measured take part: those that ran in any of the processes."""
        if not self.unmeasured:
            return
        numbers, absent = sorted(self.unmeasured), self.absent
        here = [float(number not in absent) for number in numbers]
        counts = torch.tensor(here, device=self._groups[0].state.utility.device)
        processes.all_reduce(counts)
        ran = here if all(here) else counts.tolist()
        self.absent = (absent - self.unmeasured).union(n for n, count in zip(numbers, ran, strict=True) if not count)

    def check_recorded(self) -> None:
        """Raise RuntimeError if nothing was recorded, which is not the same as an empty batch."""
        if self.recorded_nothing is not None:
            raise RuntimeError(self.recorded_nothing)
