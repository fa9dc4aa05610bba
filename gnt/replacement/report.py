"""The report of an engine: one record per group, printed as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gnt._utils.tables import align_columns
from gnt.units import UnitGroup


@dataclass(frozen=True)
class GroupReport:
    """The figures of one group.

    Attributes:
        name: the group's name.
        units: number of units.
        eligible: number of units older than the maturity threshold.
        replaced: number of units replaced so far.
        next_due: number of updates until the next replacement, if no other happens before (its expectation if counts
            are drawn); None: never.
        dead: number of eligible units whose feature, averaged over the batch, was exactly 0 in every update for longer
            than the maturity threshold: for a ReLU, units that are always off.
        nonfinite: number of updates left out because features or weights were not finite.
    """

    name: str
    units: int
    eligible: int
    replaced: int
    next_due: int | None
    dead: int
    nonfinite: int


@dataclass(frozen=True)
class Report:
    """The figures of all groups after ``updates`` updates, and what `trace` refused; prints as a table."""

    updates: int
    groups: tuple[GroupReport, ...]
    refused: tuple[object, ...] = ()

    @classmethod
    def from_groups(
        cls, groups: Sequence[UnitGroup], updates: int, replacement_rate: float, refused: Sequence[object] = ()
    ) -> Report:
        """Create a report from the groups' states; reads the device."""
        return cls(
            updates,
            tuple(
                GroupReport(
                    name=group.name,
                    units=group.num_units,
                    eligible=group.state.eligible,
                    replaced=group.state.replaced,
                    next_due=group.state.next_due(replacement_rate),
                    dead=int(group.state.dead.sum()),
                    nonfinite=int(group.state.nonfinite),
                )
                for group in groups
            ),
            tuple(refused),
        )

    def __str__(self) -> str:
        head = ("group", "units", "eligible", "replaced", "next due in", "dead", "non-finite")
        rows = [head]
        for g in self.groups:
            due = "never" if g.next_due is None else str(g.next_due)
            rows.append((g.name, str(g.units), str(g.eligible), str(g.replaced), due, str(g.dead), str(g.nonfinite)))
        left_alone = ["refused:", *(f"  {one}" for one in self.refused)] if self.refused else []
        return "\n".join([f"after {self.updates} updates", *align_columns(rows), *left_alone])
