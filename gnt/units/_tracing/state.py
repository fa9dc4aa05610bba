"""The state of a propagation: the labels of all values, and the producers and readers of units found so far."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gnt.units._tracing.graph import Graph, Node
from gnt.units._tracing.labels import Labels, UnitTable, distinct_units, units_of
from gnt.units._tracing.ownership import ParameterOwners


@dataclass(eq=False)
class Producer:
    """A weight operation that computes units: row i of its weight is unit ``first + i``."""

    name: str
    module: nn.Module | None
    dim: int
    first: int
    count: int
    node: Node


@dataclass(eq=False)
class Reader:
    """Positions of a module's tensors that belong to units: columns of a consumer, or entries of a norm."""

    name: str
    module: nn.Module
    is_scale: bool  # a norm or depthwise convolution between producer and consumer
    dim: int
    groups: int
    positions: Tensor  # (n,)
    labels: Tensor  # (n,)
    input: Node  # the value that the module reads
    values: Mapping[str, float] | None = None  # of a scale: `Slot.values`

    @property
    def units(self) -> Tensor:
        """The unit of each position."""
        return units_of(self.labels)


class PropagationState:
    """Labels of all values of one graph, with the units, producers and readers found so far.

    Args:
        graph: the captured forward.
        owners: the modules that own the graph's parameters.
        separate: names of depthwise convolutions, and layers over tokens, that must produce units of their own instead
            of passing on the units that they read.
    """

    def __init__(self, graph: Graph, owners: ParameterOwners, separate: Collection[str]) -> None:
        self.graph, self.owners, self.separate = graph, owners, separate
        self.units = UnitTable()
        self.producers: list[Producer] = []
        self.readers: list[Reader] = []
        self.couplings: list[tuple[str, Tensor]] = []  # norms whose statistics cover several units, with these units
        self.biases: set[Node] = set()  # biases that are added to the result of a product
        self.passed_through: list[tuple[str, Tensor]] = []  # weight operations that passed their input's units on
        self.labels: dict[Node, Labels | tuple[Labels, ...]] = {}
        self.unit_parameters: dict[str, Any] = {}  # by path: what `ops.unit_parameters` found in a module
        self.statistics: dict[Node, Any] = {}  # statistics over the units of norms: `ops.statistics.Statistic`
        self.branch_weights: frozenset[Node] | None = None  # see `ops.weighted_branches`
        self.combined: list[tuple[Tensor, str]] = []  # labels that must be one unit in each column, or the reason
        self._num_occurrences = 0

    def labels_of(self, node: Any) -> Labels:
        """Labels of a value; None for a value without units or a tuple of values."""
        labels = self.labels.get(node)
        return labels if isinstance(labels, Tensor) else None

    def refuse(self, labels: Labels | tuple[Labels, ...], reason: str) -> None:
        """Refuse the units of the labels of one or several values."""
        for item in labels if isinstance(labels, tuple) else (labels,):
            self.units.refuse(item, reason)

    def new_occurrence(self) -> int:
        """A new occurrence number, for labels of units that a value contains already."""
        self._num_occurrences += 1
        return self._num_occurrences

    def add_producer(self, name: str, module: nn.Module | None, dim: int, count: int, node: Node) -> Tensor:
        """Record a weight operation with ``count`` outputs; returns the labels of its new units."""
        self.producers.append(Producer(name, module, dim, len(self.units.root), count, node))
        return self.units.new(count)

    def add_consumer(self, name: str, module: nn.Module, dim: int, groups: int, labels: Tensor, read: Node) -> None:
        """Record that inputs of a weight layer are units; ``labels`` has one entry per input."""
        positions = labels.nonzero().flatten()
        self.readers.append(Reader(name, module, False, dim, groups, positions, labels[positions], read))

    def add_coupling(self, name: str, labels: Tensor) -> None:
        """Record that the statistics of a norm cover all units of ``labels``."""
        self.couplings.append((name, distinct_units(labels)))

    def add_scale(
        self,
        name: str,
        module: nn.Module,
        dim: int,
        labels: Tensor,
        read: Node,
        values: Mapping[str, float] | None = None,
    ) -> None:
        """Record that entries of a norm, or channels of a depthwise convolution, belong to units."""
        positions = labels.nonzero().flatten()
        self.readers.append(Reader(name, module, True, dim, 1, positions, labels[positions], read, values))
