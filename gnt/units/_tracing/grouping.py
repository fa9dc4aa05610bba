"""From the flow of units to unit groups: units with the same fate, in the same modules, are one group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gnt.units._activations import Activation
from gnt.units._group import Slot, UnitGroup
from gnt.units._tracing.labels import UNIT
from gnt.units._tracing.ops.dispatch import PRODUCTS
from gnt.units._tracing.ownership import is_conv1d, is_weight_layer, uses, weight_op
from gnt.units._tracing.propagation import ABSORBED, Flow, Producer, Reading
from gnt.units._tracing.refused import Refused


@dataclass(frozen=True)
class Rows:
    """Rows of one producer whose units pass the same nonlinearity."""

    producer: Producer
    nonlinearity: int
    units: Tensor


def gather(flow: Flow) -> tuple[list[UnitGroup], list[Refused]]:
    """The groups of a flow, and what was refused, both in the order of computation."""
    root, refusal = flow.units.root, flow.units.refusal
    reason = torch.zeros_like(root)  # of each root, that of its first refused unit
    bad = refusal.nonzero().flatten().flip(0)
    reason[root[bad]] = refusal[bad]
    rows = [part for producer in flow.producers for part in _rows(flow, producer)]
    part = _partition(flow, rows, reason)
    rows_of, readings_of = _by_class(rows, root, part), _by_class(flow.readings, root, part)
    groups: dict[int, UnitGroup] = {}
    lost: dict[tuple[str, str], list[tuple[Producer, Tensor]]] = {}
    for some in rows:
        for number in dict.fromkeys(part[root[some.units]].tolist()):
            mine = some.units[part[root[some.units]] == number]
            why = flow.units.reasons[int(reason[root[mine[0]]])] if reason[root[mine[0]]] else None
            if why is None and number not in groups:
                group = _group(flow, rows_of[number], readings_of.get(number, []), part, number)
                if group is None:
                    why = "nothing reads them"
                else:
                    groups[number] = group
            if why is not None and why != ABSORBED:
                lost.setdefault((some.producer.name, why), []).append((some.producer, mine))
    refused = [_refused(why, parts) for (_, why), parts in lost.items()]
    return list(groups.values()), refused + _bare(flow, {one.name for one in refused})


def _rows(flow: Flow, producer: Producer) -> list[Rows]:
    own = torch.arange(producer.first, producer.first + producer.count)
    kinds = flow.units.nonlinearity[own]
    return [Rows(producer, kind, own[kinds == kind]) for kind in dict.fromkeys(kinds.tolist())]


def _partition(flow: Flow, rows: list[Rows], reason: Tensor) -> Tensor:
    """The class of each root: refined by all that tells units apart, how often each producer and reader has them."""
    root = flow.units.root
    part, following = torch.zeros_like(root), 1

    def refine(units: Tensor) -> None:
        nonlocal following
        roots, values = torch.unique(root[units & UNIT], return_counts=True)
        _, inverse = torch.unique(part[roots] * (int(values.max()) + 1) + values, return_inverse=True)
        part[roots] = inverse + following
        following += len(roots)

    for some in rows:
        refine(some.units)
    for reading in flow.readings:
        values = flow.units.values(reading.labels)
        for value in torch.unique(values):
            refine(reading.labels[values == value])
    for number in torch.unique(reason)[1:]:
        refine(torch.unique(root[reason[root] == number]))
    return part


def _by_class(some: Sequence[Any], root: Tensor, part: Tensor) -> dict[int, list[Any]]:
    """Rows, or readings, by the classes of which they have units."""
    found: dict[int, list[Any]] = {}
    for one in some:
        for number in dict.fromkeys(part[root[one.units]].tolist()):
            found.setdefault(number, []).append(one)
    return found


def _group(flow: Flow, rows: list[Rows], readings: list[Reading], part: Tensor, number: int) -> UnitGroup | None:
    """The units of one class; None where nothing reads them."""
    root = flow.units.root
    members = [(some, some.units[part[root[some.units]] == number]) for some in rows]
    members = [(some, units) for some, units in members if len(units)]
    # the branch with an activation names the group, and orders its units
    members.sort(key=lambda member: member[0].nonlinearity == 0)
    roots = torch.tensor(list(dict.fromkeys(root[members[0][1]].tolist())))
    order = torch.full_like(root, -1)
    order[roots] = torch.arange(len(roots))
    activation = _activation(flow, members[0][0])
    incoming = []
    for some, units in members:
        table = _table(order[root[units]], units - some.producer.first, len(roots))
        own = _activation(flow, some)
        for column in table.unbind(1):
            module = some.producer.module
            assert module is not None
            kind = own if own != activation else None
            incoming.append(_slot(some.producer.name, module, column[:, None], dim=some.producer.dim, activation=kind))
    outgoing: list[Slot] = []
    scales: list[Slot] = []
    taps: dict[tuple[Any, int], int] = {}
    for reading in readings:
        values = flow.units.values(reading.labels)
        for value in torch.unique(values).tolist():
            units, positions = reading.units[values == value], reading.positions[values == value]
            mine = order[root[units]] >= 0
            if not bool(mine.any()):
                continue
            table = _table(order[root[units[mine]]], positions[mine], len(roots))
            if reading.scale:
                scales.append(_slot(reading.name, reading.module, table, dim=reading.dim))
                continue
            tap = taps.setdefault((reading.value, value), len(taps))
            slot = _slot(reading.name, reading.module, table, dim=reading.dim, groups=reading.groups, tap=tap)
            outgoing.append(slot)
    if not outgoing:
        return None
    first = members[0][0].producer
    name = _name(first, torch.cat([units for some, units in members if some.producer is first]))
    return UnitGroup(name, len(roots), tuple(incoming), tuple(outgoing), tuple(scales), activation)


def _table(units: Tensor, positions: Tensor, count: int) -> Tensor:
    """Positions of each unit, in order: (count, k)."""
    by_unit = torch.argsort(units * (int(positions.max()) + 1) + positions)
    return positions[by_unit].reshape(count, -1)


def _slot(name: str, module: Any, table: Tensor, **settings: Any) -> Slot:
    count, block = table.shape
    offset = int(table[0, 0])
    if torch.equal(table.flatten(), torch.arange(offset, offset + count * block)):
        return Slot(name, module, count, block=block, offset=offset, **settings)
    return Slot(name, module, count, block=block, positions=table.contiguous(), **settings)


def _activation(flow: Flow, rows: Rows) -> Activation | None:
    kind: Any = flow.units.kinds[rows.nonlinearity]
    return ("identity", None) if rows.nonlinearity == 0 else None if kind == "?" else kind


def _name(producer: Producer, units: Tensor) -> str:
    """The producer's name, with the range of its rows where they are not all of them."""
    rows = units - producer.first
    first, last = int(rows.min()), int(rows.max())
    if len(rows) == producer.count:
        return producer.name
    return f"{producer.name}[{first}:{last + 1}]"


def _refused(why: str, parts: list[tuple[Producer, Tensor]]) -> Refused:
    """One line for each module and reason; a module that is called twice has its rows once."""
    producer = parts[0][0]
    rows = torch.unique(torch.cat([units - one.first for one, units in parts]))
    return Refused(_name(producer, rows + producer.first), len(rows), why)


def _bare(flow: Flow, named: set[str]) -> list[Refused]:
    """Weights that are read by no weight operation: stacked experts that data choose, layers inside a ``cond``."""
    refused = []
    for node in flow.graph.nodes:
        if node.kind != "parameter" or len(node.shape) < 2 or node.name in named:
            continue
        ops = [use.op for use in uses(node) if weight_op(use) is None]
        module, _ = flow.owners.owner(node)
        path = flow.owners.path(module)
        if is_weight_layer(module) and ops and path not in named:
            reason = f"read inside {ops[0]!r}, where gnt cannot follow it (data-dependent routing, or a product)"
            refused.append(Refused(path, node.shape[1 if is_conv1d(module) else 0], reason))
        elif any("mm" in op or op in PRODUCTS for op in ops) and path not in named:
            reason = f"a bare parameter, read by {ops[0]!r}, not by a weight layer (or by data-dependent routing)"
            refused.append(Refused(node.name, None, reason))
        elif any(op.startswith("index") for op in ops) and len(node.shape) > 2 and path not in named:
            reason = f"stacked experts: {ops[0]!r} picks their weights by an index (data-dependent routing)"
            refused.append(Refused(node.name, None, reason))
    return refused
