"""Training and evaluation must agree on a group: a reader that runs in one of them alone would be left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnt.units._group import Slot, UnitGroup
from gnt.units._tracing.refused import Refused

Found = tuple[list[UnitGroup], list[Refused]]
_NAMES = {True: "training", False: "evaluation"}


def agreed(found: Mapping[bool, Found]) -> Found:
    """The groups that every traced mode has alike, and the refusals of all."""
    if len(found) == 1:
        return next(iter(found.values()))
    groups: list[UnitGroup] = []
    refused: dict[str, Refused] = {}
    for _, some in found.values():
        for one in some:
            refused.setdefault(one.name, one)
    other = {group.name: group for group in found[False][0]}
    for group in found[True][0]:
        twin = other.pop(group.name, None)
        difference = _difference(group, twin) if twin is not None else _lost(group.name, False, found)
        if difference is None:
            groups.append(group)
        else:
            refused[group.name] = Refused(group.name, group.num_units, difference)
    for name, group in other.items():
        refused[name] = Refused(name, group.num_units, _lost(name, True, found))
    return groups, list(refused.values())


def _lost(name: str, missing: bool, found: Mapping[bool, Found]) -> str:
    """Why a mode has no such group."""
    for one in found[missing][1]:
        if one.name == name:
            return f"in {_NAMES[missing]} mode: {one.reason}"
    return f"has no such units in {_NAMES[missing]} mode"


def _difference(training: UnitGroup, evaluation: UnitGroup) -> str | None:
    for verb, kind in (("makes", "incoming"), ("reads", "outgoing"), ("scales", "scales")):
        slots = {mode: [_key(s) for s in getattr(g, kind)] for mode, g in ((True, training), (False, evaluation))}
        for mode in (True, False):
            for key in slots[mode]:
                if key not in slots[not mode]:
                    return f"{key[0]!r} {verb} them in {_NAMES[mode]} mode alone"
    return None


def _key(slot: Slot) -> tuple[Any, ...]:
    positions = None if slot.positions is None else tuple(slot.positions.flatten().tolist())
    return slot.name, slot.num_units, slot.dim, slot.block, slot.offset, slot.groups, positions
