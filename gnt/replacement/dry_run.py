"""Dry run: which units would be replaced next, when, and what would change with each. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnt.replacement.selection import lowest
from gnt.units import UnitGroup


@dataclass(frozen=True)
class GroupPlan:
    """What would be replaced in one group.

    Attributes:
        name: the group's name.
        next_due: number of updates until the next replacement, if no other happens before (its expectation if counts
            are drawn); None: never.
        units: eligible units in the order in which they would be replaced now, with the utilities by which they are
            ranked.
        changes: for each tensor the number of elements that replacing one unit changes: drawn, set to 0 or to their
            initial values, or, for consumers' biases, increased by the unit's mean contribution.
        protected: number of units that are never replaced.
    """

    name: str
    next_due: int | None
    units: tuple[tuple[int, float], ...]
    changes: tuple[tuple[str, int], ...]
    protected: int = 0


@dataclass(frozen=True)
class DryRun:
    """Plans of all groups; prints as text."""

    updates: int
    groups: tuple[GroupPlan, ...]

    def __str__(self) -> str:
        lines = [f"dry run after {self.updates} updates: nothing is changed"]
        for plan in self.groups:
            due = "never" if plan.next_due is None else f"in {plan.next_due} update{'s' if plan.next_due != 1 else ''}"
            first = ", ".join(f"{unit} ({utility:.2g})" for unit, utility in plan.units) or "none is eligible"
            first += f"; {plan.protected} protected" if plan.protected else ""
            lines += [
                f"{plan.name}",
                f"  next due    {due}",
                f"  first to go {first}",
                "  each takes  " + ", ".join(f"{count} of {name}" for name, count in plan.changes),
            ]
        return "\n".join(lines)


@torch.no_grad()
def plan_replacements(
    groups: Sequence[UnitGroup],
    updates: int,
    rate: float,
    most: int,
    movable: Mapping[int, Tensor] | None,
    available: Callable[[UnitGroup], Tensor | None],
) -> DryRun:
    """Plan the next replacements from the groups' states; reads the device.

    Args:
        groups, updates, rate, most: those of the engine, and of `GnT.dry_run`.
        movable: which entries of consumers' biases may be changed, by the id of the bias; None: no bias is.
        available: which units of a group may be replaced at present; None: all.
    """
    return DryRun(updates, tuple(_plan(group, rate, most, movable, available(group)) for group in groups))


def _plan(
    group: UnitGroup, rate: float, most: int, movable: Mapping[int, Tensor] | None, available: Tensor | None
) -> GroupPlan:
    state = group.state
    utility, eligible = state.ranked_utility, state.mature
    eligible = eligible if available is None else eligible & available
    first = lowest(utility, eligible, min(most, int(eligible.sum())))
    return GroupPlan(
        group.name,
        state.next_due(rate),
        tuple(zip(first.tolist(), utility[first].tolist(), strict=True)),
        tuple(_changes(group, movable).items()),
        state.num_protected,
    )


def _changes(group: UnitGroup, movable: Mapping[int, Tensor] | None) -> dict[str, int]:
    changes: dict[str, int] = {}
    rows: dict[str, int] = {}
    for name, param, slot in group.slices():
        own = slot.size_in(param)
        both = rows.get(name, 0) * own // param.numel()  # elements that are in a row and in a column of the unit
        changes[name] = changes.get(name, 0) + own - both
        if slot in group.incoming and param is slot.weight:
            rows[name] = rows.get(name, 0) + own
    for slot in group.outgoing if movable is not None else ():
        if slot.bias is not None:
            entries = (movable or {}).get(id(slot.bias))
            changes[f"{slot.name}.bias"] = slot.bias.numel() if entries is None else int(entries.sum())
    return changes
