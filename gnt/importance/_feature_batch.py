"""FeatureBatch: the features of one update, for all groups, checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

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
    ) -> None:
        self._gradient_scale = gradient_scale
        self._groups, self.per_tap, self.plain = groups, per_tap, plain
        self._other_layouts = dict(other_layouts or {})
        self._statistics: list[GroupStatistics] | None = None
        self.absent: frozenset[int] = frozenset()
        self.recorded_nothing = recorded_nothing

    @property
    def empty(self) -> bool:
        """True if no group has any samples (an empty last batch)."""
        return len(self.absent) == len(self._groups)

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
        self._statistics = None
        self.find_absent()

    def find_absent(self) -> None:
        """Set ``absent``, from the number of samples of each group."""
        self.absent = frozenset(number for number, group in enumerate(self.statistics) if not group.size)

    def check_recorded(self) -> None:
        """Raise RuntimeError if nothing was recorded, which is not the same as an empty batch."""
        if self.recorded_nothing is not None:
            raise RuntimeError(self.recorded_nothing)
