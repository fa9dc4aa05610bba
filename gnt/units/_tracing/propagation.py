"""The flow of units through a graph: from the rows that produce them to the columns that read them.

One walk in the order of computation carries labels from node to node. A weight operation ends the labels that it reads
(its columns are noted as their consumer) and starts new ones (its rows). An operation that keeps units apart passes
labels on; any other refuses the units, with the reason. What is noted becomes groups in `gnt.joining`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gnt.units._tracing.capture import Graph, Node
from gnt.units._tracing.labels import UNIT, Labels, Units, compact, full, units_in, varies
from gnt.units._tracing.ops.dispatch import BLIND, PRODUCTS, pass_on
from gnt.units._tracing.ops.refusal import end, named
from gnt.units._tracing.ownership import Owners, WeightOp, weight_op

# what heads may pass on the way to their products: rotary positions, norms
_BEFORE_ATTENTION = ("its channels are summed", "they meet", "they are mixed", "each of them")
ABSORBED = ""  # no refusal: these channels belong to the units that they read


@dataclass(eq=False)
class Producer:
    """A weight operation's rows: row i is unit ``first + i``."""

    name: str
    module: nn.Module | None
    dim: int
    first: int
    count: int
    node: Node


@dataclass(eq=False)
class Reading:
    """Positions of a module's tensors that belong to units: a consumer's columns, or a scale's entries."""

    name: str
    module: nn.Module
    scale: bool
    dim: int
    groups: int
    positions: Tensor  # (n,)
    labels: Tensor  # (n,)
    value: Node  # what the module reads

    @property
    def units(self) -> Tensor:
        """The units of the positions, without their places."""
        return self.labels & UNIT


class Flow:
    """One walk. ``alone`` are operations that must not carry the units that they read on, but start their own."""

    def __init__(self, graph: Graph, owners: Owners, alone: set[str]) -> None:
        self.graph, self.owners, self.alone = graph, owners, alone
        self.units = Units()
        self.producers: list[Producer] = []
        self.readings: list[Reading] = []
        self.through: list[tuple[str, Tensor]] = []  # operations that carried units on, in order
        self.labels: dict[Node, Any] = {}  # Labels, or a tuple of them
        self.places = 0
        for node in graph.nodes:
            if node.kind == "op":
                self.labels[node] = self._labels(node)
        for node, phrase in graph.outputs:
            self._refuse_all(self.labels.get(node), f"output units: they are {phrase}")
        self._name_attention()

    def of(self, node: Any) -> Labels:
        """The labels of a value."""
        labels = self.labels.get(node)
        return labels if isinstance(labels, Tensor) else None

    def _labels(self, node: Node) -> Any:
        op = weight_op(node)
        sizes = [size for other in (node, *node.inputs()) for size in _sizes(other.value)]
        if not all(isinstance(size, int) for size in sizes):
            reason = "data-dependent routing: how many values go here depends on the data"
            if op is not None:
                name, module, _ = self.owners.layer(op)
                count = op.weight.shape[op.out_dim]
                rows = self._begin(op, name, module, count)
                self.units.refuse(rows, reason)
            return end(self, node, reason)
        labels: Any = self._weigh(op) if op is not None else pass_on(self, node)
        if self._is_emptied(node) and node.op not in BLIND:
            reason = f"{named(node)} leaves nothing of them for these example inputs: who reads them cannot be seen"
            self._refuse_all(labels, reason)
            return end(self, node, reason)
        pairs = zip(labels, node.value, strict=True) if isinstance(labels, tuple) else [(labels, node.value)]
        for some, value in pairs:
            if some is not None and not _fits(some, value):
                return end(self, node, f"they are read by {named(node)}, which gnt cannot follow")
        return labels

    def _is_emptied(self, node: Node) -> bool:
        """Whether nothing is left of a value, other than by a choice of none of the units."""
        read = next((labels for labels in map(self.of, node.inputs()) if labels is not None), None)
        # the first of several: in evaluation a batch norm's statistics, which come with its result, are empty
        shape = next(_shapes(node.value), ())
        dims = [dim for dim, size in enumerate(shape) if size == 0]
        chosen = read is not None and read.ndim == len(shape) and all(varies(read, [dim]) for dim in dims)
        return bool(dims) and not chosen

    def _refuse_all(self, labels: Any, reason: str) -> None:
        for some in labels if isinstance(labels, tuple) else (labels,):
            self.units.refuse(some, reason)

    def _weigh(self, op: WeightOp) -> Labels:
        """A weight operation: a consumer of what it reads, a producer of what it computes."""
        name, module, fault = self.owners.layer(op)
        channel = len(op.read.shape) - 1 - op.spatial
        read = self.of(op.read)
        for other in op.node.inputs():
            if other is not op.read:
                self.units.refuse(self.of(other), f"they make the weights of {op.node.op!r} in {op.node.module!r}")
        if not op.weight.from_parameter and not self._depthwise(op):
            self.units.refuse(read, f"they are mixed by {op.node.op!r} with a constant weight, in {op.node.module!r}")
            return None
        carried: Labels = None
        if read is not None:
            others = [dim for dim in range(read.ndim) if dim != channel]
            row = full(read, [op.read.shape[d] if d == channel else n for d, n in enumerate(read.shape)])
            if not varies(read, others):
                row = row.flatten()
                if not self._depthwise(op) or op.node.name in self.alone:
                    self._consume(op, name, module, fault, row)
                else:
                    carried = self._carry_channels(op, name, module, fault, row)
            elif op.spatial == 0 and not varies(read, [channel]) and op.node.name not in self.alone:
                self.through.append((op.node.name, read))
                carried = read  # a layer over tokens or pixels: it mixes within each unit
            else:
                self.units.refuse(read, f"they are mixed by {name!r}, along another dimension than their own")
        return self._produce(op, name, module, fault, channel, carried)

    def _depthwise(self, op: WeightOp) -> bool:
        return op.spatial > 0 and op.groups == op.read.shape[-1 - op.spatial] > 1 and op.weight.shape[1] == 1

    def _consume(self, op: WeightOp, name: str, module: nn.Module | None, fault: str | None, row: Tensor) -> None:
        phrase = fault or (self.owners.unreadable(op, module) if module is not None else None)
        if module is None or phrase is not None:
            self.units.refuse(row, f"they are read by {name!r}, which {phrase}")
            return
        positions = row.nonzero().flatten()
        entry = self._entry(op.read, op.node.module)
        self.readings.append(Reading(name, module, False, 1 - op.out_dim, op.groups, positions, row[positions], entry))

    def _carry_channels(
        self, op: WeightOp, name: str, module: nn.Module | None, fault: str | None, row: Tensor
    ) -> Tensor:
        """A depthwise convolution: each of its channels belongs to the unit that it reads."""
        multiplier = op.weight.shape[0] // len(row)
        row = row.repeat_interleave(multiplier)
        self.through.append((op.node.name, row))
        if op.weight.from_parameter:
            if module is None or fault is not None:
                self.units.refuse(row, f"they pass through {name!r}, which {fault}")
            else:
                self.note_scale(name, module, 0, row, op.read)
        row = row.clone()
        for channel in range(1, multiplier):  # another value of its unit: another place
            others = row.view(-1, multiplier)[:, channel]
            for place in torch.unique(others >> 32):
                self.places += 1
                moved = (others > 0) & (others >> 32 == place)
                others[moved] = (others[moved] & UNIT) | self.places << 32
        return row

    def note_scale(self, name: str, module: nn.Module, dim: int, row: Tensor, value: Node) -> None:
        """Entries of a norm, or channels of a depthwise convolution, that belong to units."""
        positions = row.nonzero().flatten()
        self.readings.append(Reading(name, module, True, dim, 1, positions, row[positions], value))

    def _produce(
        self, op: WeightOp, name: str, module: nn.Module | None, fault: str | None, channel: int, carried: Labels
    ) -> Labels:
        shape = op.node.shape
        channel = len(shape) - 1 - op.spatial
        count = shape[channel]
        labels = self._begin(op, name, module, count)
        if fault is not None:
            self.units.refuse(labels, f"it {fault}")
        if carried is not None and carried.ndim > 1:
            self.units.refuse(labels, "it works within the units of the layers before it")
            return carried
        if not op.weight.from_parameter and carried is None:
            return None
        if carried is not None:
            self.units.refuse(labels[carried > 0], ABSORBED)
            labels = torch.where(carried > 0, carried, labels)
        return compact(labels.reshape([-1 if d == channel else 1 for d in range(len(shape))]))

    def _begin(self, op: WeightOp, name: str, module: nn.Module | None, count: int) -> Tensor:
        """New units, one for each output of a weight operation."""
        first = len(self.units.root)
        self.producers.append(Producer(name, module, op.out_dim, first, count, op.node))
        return self.units.new(count)

    def _entry(self, node: Node, module: str) -> Node:
        """The value that enters a module, where the module looks at it in another shape than it came."""
        while node.module == module and node.kind == "op" and isinstance(node.args[0], Node):
            node = node.args[0]
        return node

    def _name_attention(self) -> None:
        """Say attention where it is attention, whatever else the projections of its heads pass before."""
        inner: set[str] = set()
        for node in self.graph.nodes:
            if node.kind == "op" and node.op in PRODUCTS and weight_op(node) is None:
                inner.update(*(read.sources for read in node.inputs() if len(read.sources) == 1))
        units = self.units
        units.reasons.append("attention heads' inner units (or another product of activations)")
        vague = torch.tensor([reason.startswith(_BEFORE_ATTENTION) for reason in units.reasons])
        for producer in self.producers:
            if producer.node.name in inner:
                own = slice(producer.first, producer.first + producer.count)
                refusal = units.refusal[own]
                units.refusal[own] = torch.where(vague[refusal], len(units.reasons) - 1, refusal)


def _fits(labels: Tensor, value: Tensor) -> bool:
    return labels.ndim == value.ndim and all(n in (1, size) for n, size in zip(labels.shape, value.shape, strict=True))


def _shapes(value: Any) -> Iterator[Any]:
    for one in value if isinstance(value, (tuple, list)) else (value,):
        yield one.shape if isinstance(one, Tensor) else ()


def _sizes(value: Any) -> Iterator[Any]:
    for shape in _shapes(value):
        yield from shape


def walk_graph(graph: Graph, owners: Owners) -> Flow:
    """The flow of all units of a graph.

    A depthwise convolution carries the units that it reads, if they can be replaced at all; otherwise (in a residual
    stream) it has units of its own, and so has a layer over tokens. That turns out at the end, so the walk is repeated
    until nothing changes.
    """
    alone: set[str] = set()
    while True:
        flow = Flow(graph, owners, alone)
        roots = flow.units.root
        bad = torch.zeros(len(roots), dtype=torch.bool)
        bad[roots[flow.units.refusal > 0]] = True
        met: set[int] = set()
        found: set[str] = set()
        for name, labels in flow.through:
            refused = {int(r) for r in roots[units_in(labels)] if bad[r]}
            if refused - met:
                found.add(name)
            met |= refused
        if not found - alone:
            return flow
        alone = alone | found
