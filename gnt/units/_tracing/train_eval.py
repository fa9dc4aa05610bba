"""Comparison of the groups found in training and in evaluation mode.

A group must be the same in both modes; otherwise a consumer that runs in only one of them would be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnt.units._group import UnitGroup
from gnt.units._slot import Slot
from gnt.units._trace_result import Refused

GroupsAndRefused = tuple[list[UnitGroup], list[Refused]]
MODE_NAMES = {True: "training", False: "evaluation"}


def merge_modes(found: Mapping[bool, GroupsAndRefused]) -> GroupsAndRefused:
    """The groups that are equal in all traced modes, and everything refused in any; keys are ``training``."""
    if len(found) == 1:
        return next(iter(found.values()))
    groups: list[UnitGroup] = []
    refused: dict[str, Refused] = {}
    for _, refused_in_mode in found.values():
        for item in refused_in_mode:
            refused.setdefault(item.name, item)
    in_evaluation = {group.name: group for group in found[False][0]}
    for group in found[True][0]:
        other = in_evaluation.pop(group.name, None)
        reason = _difference(group, other) if other is not None else _missing(group.name, False, found)
        if reason is None:
            groups.append(group)
        else:
            refused[group.name] = Refused(group.name, group.num_units, reason)
    for name, group in in_evaluation.items():
        refused[name] = Refused(name, group.num_units, _missing(name, True, found))
    return groups, list(refused.values())


def _missing(name: str, training: bool, found: Mapping[bool, GroupsAndRefused]) -> str:
    """Why the mode has no group of this name."""
    for item in found[training][1]:
        if item.name == name:
            return f"in {MODE_NAMES[training]} mode: {item.reason}"
    return f"these units do not exist in {MODE_NAMES[training]} mode"


def _difference(training: UnitGroup, evaluation: UnitGroup) -> str | None:
    """A slot that only one of the two groups has, as a reason of refusal."""
    for verb, kind in (("produces", "incoming"), ("reads", "outgoing"), ("scales", "scales")):
        slots = {mode: [_key(s) for s in getattr(g, kind)] for mode, g in ((True, training), (False, evaluation))}
        for mode in (True, False):
            for key in slots[mode]:
                if key not in slots[not mode]:
                    return f"{key[0]!r} {verb} them only in {MODE_NAMES[mode]} mode"
    return None


def _key(slot: Slot) -> tuple[Any, ...]:
    """What must be equal in both modes."""
    positions = None if slot.positions is None else tuple(slot.positions.flatten().tolist())
    values = None if slot.values is None else tuple(slot.values.items())
    return slot.name, slot.num_units, slot.dim, slot.block, slot.offset, slot.groups, positions, values
