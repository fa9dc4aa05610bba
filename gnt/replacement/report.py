"""What the engine tells about its groups: a small record a group, printed as a table."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from gnt._utils.tables import align_columns
from gnt.units import UnitGroup


@dataclass(frozen=True)
class GroupReport:
    """One group's figures.

    Attributes:
        name: the group's name.
        units: number of units.
        eligible: units older than the maturity threshold.
        replaced: units replaced so far.
        next_due: updates until the next replacement, if nothing else happens (its expectation when counts are drawn);
            None: never.
        dead: eligible units whose feature, averaged over the batch, was exactly 0 in every update for longer than the
            maturity threshold: for a rectifier, units that are always off.
        nonfinite: updates left out because features or weights were not finite.
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
    """All groups' figures after ``updates`` updates, and what `trace` refused; `print` shows a table."""

    updates: int
    groups: tuple[GroupReport, ...]
    refused: tuple[object, ...] = ()

    @classmethod
    def of(
        cls, groups: Sequence[UnitGroup], updates: int, replacement_rate: float, refused: Sequence[object] = ()
    ) -> Report:
        """Read the groups' states."""
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


def warn_if_idle(
    groups: Sequence[UnitGroup], replacement_rate: float, maturity_threshold: int, *, selects: bool
) -> None:
    """Warn when nothing was ever replaced, naming what is responsible; a rate of 0 asks for just that."""
    if replacement_rate == 0.0 or any(group.state.replaced for group in groups):
        return
    updates = groups[0].state.updates
    if not any(group.state.eligible for group in groups):
        why = f"no unit has been eligible: maturity_threshold={maturity_threshold} is longer than that"
    elif 2 * maturity_threshold > updates:
        why = f"maturity_threshold={maturity_threshold} leaves units hardly any updates in which they are eligible"
    elif selects:
        why = f"no unit has been due: replacement_rate={replacement_rate:g} is low for groups of this size"
    else:
        why = "GnT.select and GnT.replace, or GnT.step, were never called"
    warnings.warn(f"gnt has replaced nothing in {updates} updates; {why}. See GnT.report()", stacklevel=_callers())


def _callers() -> int:
    """The stacklevel at which gnt and torch were called."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in ("gnt", "torch"):
        level, frame = level + 1, frame.f_back
    return level
