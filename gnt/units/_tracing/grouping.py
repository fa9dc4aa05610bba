"""From the result of a propagation to unit groups and refusals.

Units form one group if they have the same producers, readers and activation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from gnt.units._activations import Activation
from gnt.units._group import UnitGroup
from gnt.units._slot import Slot
from gnt.units._trace_result import Refused
from gnt.units._tracing.bare_parameters import parameters_without_layer
from gnt.units._tracing.graph import Node
from gnt.units._tracing.labels import UNKNOWN_ACTIVATION, units_of
from gnt.units._tracing.ops.producers_and_consumers import ABSORBED
from gnt.units._tracing.state import Producer, PropagationState, Reader

UNREAD = "no layer reads them"


@dataclass(frozen=True)
class ProducerRows:
    """The rows of one producer whose units have the same activation."""

    producer: Producer
    activation: int  # index into `UnitTable.activations`
    units: Tensor


_Part = TypeVar("_Part", ProducerRows, Reader)


def find_groups(state: PropagationState) -> tuple[list[UnitGroup], list[Refused]]:
    """The unit groups of a propagation, and the refused units, both in the order of computation."""
    root, refusal = state.units.root, state.units.refusal
    reason = torch.zeros_like(root)  # for each root, the reason of its first refused unit
    refused_units = refusal.nonzero().flatten().flip(0)
    reason[root[refused_units]] = refusal[refused_units]
    rows = [part for producer in state.producers for part in _rows_by_activation(state, producer)]
    class_of = _partition(state, rows, reason)
    rows_of, readers_of = _by_class(rows, root, class_of), _by_class(state.readers, root, class_of)
    groups: dict[int, UnitGroup] = {}
    refused: dict[tuple[str, str], list[tuple[Producer, Tensor]]] = {}
    for part in rows:
        for number in dict.fromkeys(class_of[root[part.units]].tolist()):
            units = part.units[class_of[root[part.units]] == number]
            why = state.units.reasons[int(reason[root[units[0]]])] if reason[root[units[0]]] else None
            if why is None and number not in groups:
                group = _group(state, rows_of[number], readers_of.get(number, []), class_of, number)
                if group is None:
                    why = UNREAD
                else:
                    groups[number] = group
            if why is not None and why != ABSORBED:
                refused.setdefault((part.producer.name, why), []).append((part.producer, units))
    refusals = [_refused(why, parts) for (_, why), parts in refused.items()]
    return list(groups.values()), refusals + parameters_without_layer(state, {item.name for item in refusals})


def _rows_by_activation(state: PropagationState, producer: Producer) -> list[ProducerRows]:
    units = torch.arange(producer.first, producer.first + producer.count, device="cpu")
    activations = state.units.activation[units]
    return [ProducerRows(producer, kind, units[activations == kind]) for kind in dict.fromkeys(activations.tolist())]


def _partition(state: PropagationState, rows: list[ProducerRows], reason: Tensor) -> Tensor:
    """The class of each root: roots are in one class if every producer, reader and reason has them equally often."""
    root = state.units.root
    class_of, next_class = torch.zeros_like(root), 1

    def split(units: Tensor) -> None:
        """Split the classes by how often ``units`` contains each root."""
        nonlocal next_class
        roots, counts = torch.unique(root[units_of(units)], return_counts=True)
        _, inverse = torch.unique(class_of[roots] * (int(counts.max()) + 1) + counts, return_inverse=True)
        class_of[roots] = inverse + next_class
        next_class += len(roots)

    for part in rows:
        split(part.units)
    for reader in state.readers:
        values = state.units.value_numbers(reader.labels)
        for value in torch.unique(values):
            split(reader.labels[values == value])
    for number in torch.unique(reason)[1:]:
        split(torch.unique(root[reason[root] == number]))
    return class_of


def _by_class(parts: Sequence[_Part], root: Tensor, class_of: Tensor) -> dict[int, list[_Part]]:
    """Rows or readers, listed under each class of which they contain units."""
    found: dict[int, list[_Part]] = {}
    for part in parts:
        for number in dict.fromkeys(class_of[root[part.units]].tolist()):
            found.setdefault(number, []).append(part)
    return found


def _group(
    state: PropagationState, rows: list[ProducerRows], readers: list[Reader], class_of: Tensor, number: int
) -> UnitGroup | None:
    """The group of one class; None if no layer reads its units."""
    root = state.units.root
    members = [(part, part.units[class_of[root[part.units]] == number]) for part in rows]
    # the first producer names the group and orders its units: no gate computed from the units, and with an activation
    nodes = {part.producer.node for part, _ in members}
    members.sort(key=lambda member: (_depends_on(member[0].producer.node, nodes), member[0].activation == 0))
    roots = torch.tensor(list(dict.fromkeys(root[members[0][1]].tolist())), device="cpu")
    order = torch.full_like(root, -1)
    order[roots] = torch.arange(len(roots), device="cpu")
    activation = _activation(state, members[0][0])
    incoming = [
        slot for part, units in members for slot in _incoming(state, part, units, order, len(roots), activation)
    ]
    outgoing, scales = _reader_slots(state, readers, order, len(roots))
    if not outgoing:
        return None
    first = members[0][0].producer
    name = _name(first, torch.cat([units for part, units in members if part.producer is first]))
    couplings = dict.fromkeys(
        norm for norm, covered in state.couplings if bool((class_of[root[covered]] == number).any())
    )
    return UnitGroup(
        name, len(roots), tuple(incoming), tuple(outgoing), tuple(scales), activation, couplings=tuple(couplings)
    )


def _depends_on(node: Node, others: Collection[Node]) -> bool:
    """True if a node is computed from one of the others."""
    if len(others) < 2:
        return False
    seen, waiting = {node}, [node]
    while waiting:
        for read in waiting.pop().inputs():
            if read in others and read is not node:
                return True
            if read.kind == "op" and read not in seen:
                seen.add(read)
                waiting.append(read)
    return False


def _incoming(
    state: PropagationState, part: ProducerRows, units: Tensor, order: Tensor, count: int, activation: Activation | None
) -> list[Slot]:
    """The slots of a producer: one for each row that a unit has there."""
    producer, module = part.producer, part.producer.module
    assert module is not None
    table = _position_table(order[state.units.root[units]], units - producer.first, count)
    own = _activation(state, part)
    own = own if own != activation else None
    return [
        _slot(producer.name, module, column[:, None], dim=producer.dim, activation=own) for column in table.unbind(1)
    ]


def _reader_slots(
    state: PropagationState, readers: list[Reader], order: Tensor, count: int
) -> tuple[list[Slot], list[Slot]]:
    """The slots of the consumers, and those of the scales."""
    outgoing: list[Slot] = []
    scales: list[Slot] = []
    for reader in readers:
        values = state.units.value_numbers(reader.labels)
        for value in torch.unique(values).tolist():
            index = order[state.units.root[reader.units[values == value]]]
            positions = reader.positions[values == value]
            in_group = index >= 0
            if not bool(in_group.any()):
                continue
            table = _position_table(index[in_group], positions[in_group], count)
            if reader.is_scale:
                scales.append(_slot(reader.name, reader.module, table, dim=reader.dim, values=reader.values))
                continue
            tap = hash((reader.input.key, value))
            outgoing.append(_slot(reader.name, reader.module, table, dim=reader.dim, groups=reader.groups, tap=tap))
    return outgoing, scales


def _position_table(units: Tensor, positions: Tensor, count: int) -> Tensor:
    """The sorted positions of each unit: (count, positions per unit)."""
    by_unit = torch.argsort(units * (int(positions.max()) + 1) + positions)
    return positions[by_unit].reshape(count, -1)


def _slot(name: str, module: Any, table: Tensor, **settings: Any) -> Slot:
    """A slot of a table of positions; consecutive positions are described by block and offset."""
    count, block = table.shape
    offset = int(table[0, 0])
    if torch.equal(table.flatten(), torch.arange(offset, offset + count * block, device="cpu")):
        return Slot(name, module, count, block=block, offset=offset, **settings)
    return Slot(name, module, count, block=block, positions=table.contiguous(), **settings)


def _activation(state: PropagationState, part: ProducerRows) -> Activation | None:
    if part.activation == 0:
        return "identity", None
    activation: Any = state.units.activations[part.activation]
    return None if activation == UNKNOWN_ACTIVATION else activation


def _name(producer: Producer, units: Tensor) -> str:
    """The producer's name, with the range of rows if the units are not all of its rows."""
    rows = units - producer.first
    first, last = int(rows.min()), int(rows.max())
    if len(rows) == producer.count:
        return producer.name
    return f"{producer.name}[{first}:{last + 1}]"


def _refused(why: str, parts: list[tuple[Producer, Tensor]]) -> Refused:
    """One refusal for a module and a reason; rows of a module that is called twice are counted once."""
    producer = parts[0][0]
    rows = torch.unique(torch.cat([units - other.first for other, units in parts]))
    return Refused(_name(producer, rows + producer.first), len(rows), why)
