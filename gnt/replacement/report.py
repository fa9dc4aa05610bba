"""The report of an engine: one record per group, printed as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gnt._utils.tables import align_columns
from gnt.initialization import USUAL_INIT, SlotInit
from gnt.replacement._renewal import describe_renewal
from gnt.replacement.eligibility import UnitState
from gnt.units import UnitGroup

FEW = 10  # skipped layers that a report always lists


@dataclass(frozen=True)
class GroupReport:
    """The figures of one group.

    Attributes:
        name: the group's name.
        units: number of units.
        eligible: number of units older than the maturity threshold that are not protected.
        replaced: number of units replaced so far.
        next_due: number of updates until the next replacement, if no other happens before (its expectation if counts
            are drawn); None: never.
        dead: number of units older than the maturity threshold whose feature, averaged over the batch, was exactly 0 in
            every update for longer than it: for a ReLU, units that are always off.
        nonfinite: number of updates left out because features or weights were not finite.
        init: initial distribution of new units' weights, with the reason; for each producer, if there are several.
        protected: number of units that are never replaced (``protect``).
    """

    name: str
    units: int
    eligible: int
    replaced: int
    next_due: int | None
    dead: int
    nonfinite: int
    init: str = ""
    protected: int = 0


@dataclass(frozen=True)
class Report:
    """The figures of all groups after ``updates`` updates, and what `trace` skipped; prints as a table.

    Attributes:
        updates: number of updates so far.
        groups: the figures of each group.
        refused: what `trace` skipped, with the reasons; also called `skipped`.
        replacement_rate, maturity_threshold: the engine's settings.
        first_due: as long as no unit was replaced, the number of updates, since the first one, after which the first
            unit is due; otherwise, and if none ever is due, None.
        notes: parts of the network that `trace` could not examine.
        at_most_one: a group replaces one unit at most in an update (``accumulate="one"``).
        implementation: what updates the units: kernels, or torch operations with the reason.
        list_skipped: whether more than ten skipped layers are printed too, instead of their number.
    """

    updates: int
    groups: tuple[GroupReport, ...]
    refused: tuple[object, ...] = ()
    replacement_rate: float = 0.0
    maturity_threshold: int = 0
    first_due: int | None = None
    notes: tuple[str, ...] = ()
    at_most_one: bool = False
    implementation: str = ""
    list_skipped: bool = False

    @property
    def skipped(self) -> tuple[object, ...]:
        """The same as ``refused``."""
        return self.refused

    @classmethod
    def from_groups(
        cls,
        groups: Sequence[UnitGroup],
        updates: int,
        replacement_rate: float,
        slot_inits: Sequence[Sequence[SlotInit]],
        refused: Sequence[object] = (),
        notes: Sequence[str] = (),
        at_most_one: bool = False,
        implementation: str = "",
        list_skipped: bool = False,
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
                    init=describe_inits(group, inits),
                    protected=group.state.num_protected,
                )
                for group, inits in zip(groups, slot_inits, strict=True)
            ),
            tuple(refused),
            replacement_rate,
            groups[0].state.maturity_threshold,
            first_due([group.state for group in groups], updates, replacement_rate),
            tuple(notes),
            at_most_one,
            implementation,
            list_skipped,
        )

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("group", "units", "eligible", "replaced", "next due in", "dead", "non-finite", "protected")
        ]
        for g in self.groups:
            due = "never" if g.next_due is None else str(g.next_due)
            figures = (g.units, g.eligible, g.replaced, due, g.dead, g.nonfinite, g.protected)
            rows.append((g.name, *map(str, figures)))
        if not any(g.protected for g in self.groups):
            rows = [row[:-1] for row in rows]
        left_alone = self._skipped_lines()
        left_alone += [f"note: {note}" for note in self.notes]
        updated_by = [f"units are updated by {self.implementation}"] if self.implementation else []
        body = [*align_columns(rows), *self._outlook(), *self._inits(), *left_alone, *updated_by]
        return "\n".join([f"after {self.updates} updates", *body])

    def _skipped_lines(self) -> list[str]:
        """What was skipped, with the reasons; only how much it is if that is too long."""
        if not self.refused:
            return []
        if self.list_skipped or len(self.refused) <= FEW:
            return ["skipped:", *(f"  {one}" for one in self.refused)]
        units = sum(getattr(one, "num_units", None) or 0 for one in self.refused)
        return [f"skipped: {len(self.refused)} layers with {units:,} units; report(skipped=True) lists them"]

    def _inits(self) -> list[str]:
        """The distributions of new weights, unless all are the layers' own in torch, and so the expected ones."""
        if all(not group.init or group.init.endswith(USUAL_INIT) for group in self.groups):
            return []
        return ["new weights:", *(f"  {group.name}: {group.init}" for group in self.groups)]

    def _outlook(self) -> list[str]:
        """When the first unit is due, as long as none was replaced, and how fast units are renewed in the long run."""
        rate, threshold = self.replacement_rate, self.maturity_threshold
        units = (group.units - group.protected for group in self.groups)
        pace = describe_renewal(units, rate, threshold, at_most_one=self.at_most_one)
        lines = [pace] if pace else []
        if self.first_due is not None:
            settings = f"replacement_rate={rate:g} and maturity_threshold={threshold}"
            due = f"none was replaced yet: at {settings} the first unit is due after {self.first_due} updates"
            lines.insert(0, due)
        return lines


def describe_inits(group: UnitGroup, inits: Sequence[SlotInit]) -> str:
    """The initial distributions of a group's new units, with the reasons."""
    texts = [str(init) for init in inits]
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(f"{slot.name}: {text}" for slot, text in zip(group.drawn, texts, strict=True))


def first_due(states: Sequence[UnitState], updates: int, replacement_rate: float) -> int | None:
    """Number of updates, since the first one, after which the first unit is due; None: never, or one was replaced."""
    if any(state.replaced for state in states):
        return None
    dues = [due for state in states if (due := state.next_due(replacement_rate)) is not None]
    return updates + min(dues) if dues else None
