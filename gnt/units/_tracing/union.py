"""Merging of the units found with several examples.

Units of two examples are the same if they share a row of a producer. Each gets the union of its producers, norms and
consumers. A module that an example runs must hold a unit there exactly as in the other examples: a consumer that reads
something else in one example, or a producer whose units are refused in one, makes them unsound, and they are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gnt.units._group import UnitGroup
from gnt.units._slot import Slot
from gnt.units._trace_result import Refused
from gnt.units._tracing.grouping import UNREAD
from gnt.units._tracing.train_eval import GroupsAndRefused

_SIDES = ("incoming", "scales", "outgoing")


class FoundUnits(NamedTuple):
    """The groups and refusals of one example, and the ids of the modules that it runs."""

    groups: list[UnitGroup]
    refused: list[Refused]
    ran: set[int]


class _Part(NamedTuple):
    """Some units of a group of one example."""

    example: int  # its index
    group: UnitGroup
    units: Tensor


def merge_examples(found: Sequence[FoundUnits]) -> GroupsAndRefused:
    """The groups with the union of their consumers over all examples, and all refused units."""
    if len(found) == 1:
        return [_with_small_taps(group) for group in found[0].groups], found[0].refused
    groups: list[UnitGroup] = []
    refused: list[Refused] = []
    for parts in _same_units(found):
        group, sources = _merge(parts)
        reason = _conflict(group, sources, parts, found)
        if reason is None:
            groups.append(_with_small_taps(group))
        else:
            refused.append(Refused(group.name, group.num_units, reason))
    return groups, _merge_refused(groups, refused, found)


def _same_units(found: Sequence[FoundUnits]) -> Iterator[list[_Part]]:
    """The units of all examples, in sets of parts that have the same units in the same order."""
    groups = [(example, group) for example, units in enumerate(found) for group in units.groups]
    first, total = [], 0
    for _, group in groups:
        first.append(total)
        total += group.num_units
    root = _joined_roots(groups, first, total)
    members: dict[int, list[tuple[int, int]]] = {}  # of each root: index of a group, and unit in it
    for index, (_, group) in enumerate(groups):
        for unit, of_root in enumerate(root[first[index] : first[index] + group.num_units].tolist()):
            members.setdefault(of_root, []).append((index, unit))
    sets: dict[tuple[int, ...], list[list[int]]] = {}
    for entries in members.values():
        sets.setdefault(tuple(index for index, _ in entries), []).append([unit for _, unit in entries])
    for indices, units in sets.items():
        columns = torch.tensor(units, device="cpu").T
        yield [_Part(*groups[index], column) for index, column in zip(indices, columns, strict=True)]


def _joined_roots(groups: Sequence[tuple[int, UnitGroup]], first: Sequence[int], total: int) -> Tensor:
    """For each unit of all groups, numbered in order, the smallest number of a unit that is the same one."""
    rows: dict[tuple[int, int], list[int]] = {}  # (module, row): the units that it produces
    for start, (_, group) in zip(first, groups, strict=True):
        every = torch.arange(group.num_units, device="cpu")
        for slot in group.incoming:
            unit = (every + start).repeat_interleave(slot.block).tolist()
            for row, number in zip(slot.index(every).tolist(), unit, strict=True):
                rows.setdefault((id(slot.module), row), []).append(number)
    pairs = torch.tensor(
        [(units[0], unit) for units in rows.values() for unit in units[1:]], dtype=torch.int64, device="cpu"
    )
    root = torch.arange(total, device="cpu")
    if not len(pairs):
        return root
    a, b = pairs.unbind(1)
    while not torch.equal(root[a], root[b]):
        least = torch.minimum(root[a], root[b])
        for index in (a, b, root[a], root[b]):
            root = root.scatter_reduce(0, index, least, "amin")
    return root


def _merge(parts: Sequence[_Part]) -> tuple[UnitGroup, dict[str, dict[int, set[int]]]]:
    """The merged group; and for each side, by the index of the slot, the examples that have it."""
    sides: dict[str, list[Slot]] = {side: [] for side in _SIDES}
    sources: dict[str, dict[int, set[int]]] = {side: {} for side in _SIDES}
    taps: dict[int, set[int]] = {}  # by the index of the consumer
    for part in parts:
        for side in _SIDES:
            for slot in getattr(part.group, side):
                slot = _of_units(slot, part.units)
                index = next((i for i, other in enumerate(sides[side]) if _is_same(slot, other)), len(sides[side]))
                if index == len(sides[side]):
                    sides[side].append(slot)
                sources[side].setdefault(index, set()).add(part.example)
                if side == "outgoing":
                    taps.setdefault(index, set()).add(slot.tap)
    numbers: dict[frozenset[int], int] = {}
    outgoing = [
        dataclasses.replace(slot, tap=numbers.setdefault(frozenset(taps[index]), len(numbers)))
        for index, slot in enumerate(sides["outgoing"])
    ]
    activations = {part.group.activation for part in parts}
    group = UnitGroup(
        name=_name(parts[0], sides["incoming"][0]),
        num_units=len(parts[0].units),
        incoming=tuple(sides["incoming"]),
        outgoing=tuple(outgoing),
        scales=tuple(sides["scales"]),
        activation=activations.pop() if len(activations) == 1 else None,
        couplings=tuple(dict.fromkeys(norm for part in parts for norm in part.group.couplings)),
    )
    return group, sources


def _name(part: _Part, producer: Slot) -> str:
    if len(part.units) == part.group.num_units:
        return part.group.name
    rows = producer.index(torch.arange(producer.num_units, device="cpu"))
    return f"{producer.name}[{int(rows.min())}:{int(rows.max()) + 1}]"


def _of_units(slot: Slot, units: Tensor) -> Slot:
    """The slot of some units of its group, in the given order."""
    if torch.equal(units, torch.arange(slot.num_units, device="cpu")):
        return slot
    table = slot.index(units).reshape(len(units), -1)
    start, block = int(table[0, 0]), table.shape[1]
    if torch.equal(table.flatten(), torch.arange(start, start + table.numel(), device="cpu")):
        return dataclasses.replace(slot, num_units=len(units), offset=start, block=block, positions=None)
    return dataclasses.replace(slot, num_units=len(units), offset=0, block=block, positions=table.contiguous())


def _is_same(a: Slot, b: Slot) -> bool:
    every = torch.arange(a.num_units, device="cpu")
    return (
        a.module is b.module and a.dim == b.dim and a.block == b.block and torch.equal(a.index(every), b.index(every))
    )


def _conflict(
    group: UnitGroup, sources: dict[str, dict[int, set[int]]], parts: Sequence[_Part], found: Sequence[FoundUnits]
) -> str | None:
    """Why a merged group is not sound in some example; None if it is."""
    examples = [part.example for part in parts]
    if len(set(examples)) < len(examples):
        return "their rows form different units in the examples"
    for side in _SIDES:
        for index, slot in enumerate(getattr(group, side)):
            for other, units in enumerate(found):
                if other in sources[side][index] or id(slot.module) not in units.ran:
                    continue
                here = min(sources[side][index]) + 1
                if side == "incoming":
                    reasons = [item.reason for item in units.refused if _path(item.name) == slot.name]
                    if reasons and all(reason == UNREAD for reason in reasons):
                        continue
                    why = next((reason for reason in reasons if reason != UNREAD), None)
                    return f"in example {other + 1}: {why}" if why else _elsewhere(slot, "produces", here, other + 1)
                return _elsewhere(slot, "reads" if side == "outgoing" else "scales", here, other + 1)
    return None


def _elsewhere(slot: Slot, verb: str, here: int, there: int) -> str:
    return f"{slot.name!r} {verb} them in example {here}, and other values in example {there}"


def _merge_refused(groups: Sequence[UnitGroup], refused: list[Refused], found: Sequence[FoundUnits]) -> list[Refused]:
    """The refusals of all examples, each name once; units that only some examples do not read are left out."""
    names = {group.name for group in groups}
    covered = {slot.name for group in groups for slot in (*group.incoming, *group.scales)}
    merged = {item.name: item for item in refused}
    of_examples = [(number, item) for number, units in enumerate(found, 1) for item in units.refused]
    for number, item in sorted(of_examples, key=lambda pair: pair[1].reason == UNREAD):
        known = covered | {_path(name) for name in merged}
        if item.name in merged or item.name in names or (item.reason == UNREAD and _path(item.name) in known):
            continue
        everywhere = all(item in units.refused for units in found if _mentions(units, _path(item.name)))
        reason = item.reason if everywhere else f"in example {number}: {item.reason}"
        merged[item.name] = dataclasses.replace(item, reason=reason)
    return list(merged.values())


def _mentions(units: FoundUnits, path: str) -> bool:
    return any(_path(item.name) == path for item in units.refused) or any(
        slot.name == path for group in units.groups for slot in group.incoming
    )


def _path(name: str) -> str:
    return name.partition("[")[0]  # without the range of rows


def _with_small_taps(group: UnitGroup) -> UnitGroup:
    """The group with taps numbered from 0 in the order of its consumers."""
    numbers: dict[int, int] = {}
    outgoing = [dataclasses.replace(s, tap=numbers.setdefault(s.tap, len(numbers))) for s in group.outgoing]
    return dataclasses.replace(group, outgoing=tuple(outgoing))
