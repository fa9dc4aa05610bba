"""Other objects that keep ages or averages of the same units: a `GnT`, a `ReDo`, a running importance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnt.units import Slot, UnitGroup


def shared_units(group: UnitGroup, other: UnitGroup) -> Tensor:
    """The pairs (unit of ``group``, unit of ``other``) that have a row of a producer in common: int64 (pairs, 2)."""
    theirs: dict[tuple[int, int], set[int]] = {}
    if {id(slot.module) for slot in group.incoming} & {id(slot.module) for slot in other.incoming}:
        for key, unit in _rows(other):
            theirs.setdefault(key, set()).add(unit)
    pairs = {(unit, match) for key, unit in _rows(group) for match in theirs.get(key, ())} if theirs else set()
    return torch.tensor(sorted(pairs), dtype=torch.int64, device="cpu").reshape(-1, 2)


def _rows(group: UnitGroup) -> list[tuple[tuple[int, int], int]]:
    """For each row of the producers (module, position) its unit."""
    found = []
    for slot in group.incoming:
        rows = slot.index(torch.arange(slot.num_units, device="cpu")).view(slot.num_units, -1).tolist()
        found += [((id(slot.module), row), unit) for unit, own in enumerate(rows) for row in own]
    return found


def keeps_unit_state(target: Any) -> bool:
    """True for an object with unit groups whose averages can be restarted."""
    groups = getattr(target, "groups", None)
    if not isinstance(groups, (list, tuple)) or not groups or not all(isinstance(each, UnitGroup) for each in groups):
        return False
    return hasattr(target, "restart_units") or all(hasattr(getattr(each, "state", None), "restart") for each in groups)


class OtherEngineAdapter:
    """An object with groups that has units in common with the engine; units are matched by the rows of producers.

    A replaced unit gets the age and averages of a new unit there. If the object has a method
    ``restart_units(group, units)``, that is called; otherwise ``restart(units)`` of the group's state.

    Raises:
        ValueError: an ensemble's engine.
    """

    moves_bias = False

    def __init__(self, target: Any) -> None:
        self.target = target
        if getattr(target, "members", 1) != 1:
            raise ValueError(
                f"{type(target).__name__} cannot follow: all members of an ensemble replace equally many units, so "
                "their ages cannot be changed from outside"
            )
        self._mine: Sequence[UnitGroup] = ()
        self._theirs: Sequence[UnitGroup] = ()
        self._pairs: list[list[tuple[UnitGroup, Tensor]]] = []  # for each group of the engine

    def check(self, groups: Sequence[UnitGroup]) -> None:
        """Match the units, unless they were matched before.

        Raises:
            ValueError: no unit in common.
        """
        theirs = self.target.groups
        if groups is self._mine and theirs is self._theirs:
            return
        pairs = []
        for group in groups:
            matched = ((other, shared_units(group, other)) for other in theirs)
            pairs.append([(other, found) for other, found in matched if len(found)])
        if not any(pairs):
            raise ValueError(
                f"{type(self.target).__name__} cannot follow: none of its units is one of the engine's (a copied "
                "network has units of its own)"
            )
        self._mine, self._theirs, self._pairs = groups, theirs, pairs

    def move_bias(self, slot: Slot, change: Tensor) -> None:
        """Ages and averages of the consumers' units stay as they are."""

    def reset(self, group: UnitGroup, units: Tensor) -> None:
        """Restart the same units there."""
        number = next(number for number, mine in enumerate(self._mine) if mine is group)
        for other, pairs in self._pairs[number]:
            mine, theirs = pairs.to(units.device).unbind(1)
            self._restart(other, torch.unique(theirs[torch.isin(mine, units)]))

    def _restart(self, other: UnitGroup, units: Tensor) -> None:
        if not len(units):
            return
        if hasattr(self.target, "restart_units"):
            self.target.restart_units(other, units)
        else:
            other.state.restart(units)
