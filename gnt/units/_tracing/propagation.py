"""Propagation of units through a graph, from the rows that produce them to the columns that read them.

The nodes are visited in the order of computation. A weight operation ends the labels that it reads, which are recorded
as its columns, and starts new labels for its rows. An operation that keeps units separate passes labels on; any other
operation refuses the units that it reads, with the reason. `grouping` makes unit groups of the result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from gnt.units._tracing.graph import Graph, Node
from gnt.units._tracing.labels import distinct_units, varies
from gnt.units._tracing.ops.dispatch import ACTIVATION_PRODUCTS, SHAPE_OPS, propagate_labels
from gnt.units._tracing.ops.producers_and_consumers import apply_weights
from gnt.units._tracing.ops.refusal import describe_operation, refuse_operands
from gnt.units._tracing.ops.statistics import apply_statistics, refuse_statistics
from gnt.units._tracing.ops.weighted_branches import refuse_unjoined_branches
from gnt.units._tracing.ownership import ParameterOwners
from gnt.units._tracing.state import PropagationState
from gnt.units._tracing.weight_ops import weight_op

# starts of the reasons by which attention heads may be refused before their product: rotary positions, norms
_REASONS_BEFORE_ATTENTION = ("its channels are summed", "they are combined", "they are mixed", "each of them")


def propagate(graph: Graph, owners: ParameterOwners) -> PropagationState:
    """Propagate all units of a graph.

    A depthwise convolution passes on the units that it reads if they can be replaced. If not (in a residual stream), it
    produces units of its own; so does a layer over tokens. This is known only at the end of a pass, so passes are
    repeated until nothing changes.
    """
    separate: set[str] = set()
    while True:
        state = _propagate_once(graph, owners, separate)
        found = _passed_refused_units(state)
        if not found - separate:
            return state
        separate |= found


def _propagate_once(graph: Graph, owners: ParameterOwners, separate: Collection[str]) -> PropagationState:
    state = PropagationState(graph, owners, frozenset(separate))
    for node in graph.nodes:
        if node.kind == "op":
            state.labels[node] = _result_labels(state, node)
    refuse_unjoined_branches(state)
    for node, phrase in graph.outputs:
        state.refuse(state.labels.get(node), f"output units: they are {phrase}")
        refuse_statistics(state, node)
    _refuse_attention(state)
    return state


def _passed_refused_units(state: PropagationState) -> set[str]:
    """Names of the operations that were the first to pass on units which are refused."""
    root = state.units.root
    is_refused = torch.zeros(len(root), dtype=torch.bool, device="cpu")
    is_refused[root[state.units.refusal > 0]] = True
    seen: set[int] = set()
    found: set[str] = set()
    for name, labels in state.passed_through:
        refused = {int(r) for r in root[distinct_units(labels)] if is_refused[r]}
        if refused - seen:
            found.add(name)
        seen |= refused
    return found


def _result_labels(state: PropagationState, node: Node) -> Any:
    """Labels of the result of an operation: labels, None, or a tuple of them."""
    op = weight_op(node)
    sizes = [size for value in (node, *node.inputs()) for size in _sizes(value.value)]
    if not all(isinstance(size, int) for size in sizes):
        reason = "data-dependent routing: the number of values here depends on the data"
        if op is not None:
            layer = state.owners.weight_layer(op)
            rows = state.add_producer(layer.name, layer.module, op.out_dim, op.weight.shape[op.out_dim], node)
            state.refuse(rows, reason)
        return refuse_operands(state, node, reason)
    if node.op not in SHAPE_OPS and any(other in state.statistics for other in node.inputs()):
        if op is None:
            return apply_statistics(state, node)
        refuse_statistics(state, node)
    labels: Any = apply_weights(state, op) if op is not None else propagate_labels(state, node)
    if node.op not in SHAPE_OPS and _is_emptied(state, node):
        reason = (
            f"{describe_operation(node)} returns an empty tensor for these example inputs, so the layers that read "
            "them cannot be found"
        )
        state.refuse(labels, reason)
        return refuse_operands(state, node, reason)
    pairs = zip(labels, node.value, strict=True) if isinstance(labels, tuple) else [(labels, node.value)]
    for item, value in pairs:
        if item is not None and not _fits(item, value):
            return refuse_operands(state, node, f"they are read by {describe_operation(node)}, which gnt cannot trace")
    return labels


def _is_emptied(state: PropagationState, node: Node) -> bool:
    """True if the result of a node is empty for another reason than a selection of no units."""
    labels = next((found for found in map(state.labels_of, node.inputs()) if found is not None), None)
    # only the first of several results: the statistics that a batch norm returns in evaluation mode are empty
    shape = next(_shapes(node.value), ())
    dims = [dim for dim, size in enumerate(shape) if size == 0]
    selected = labels is not None and labels.ndim == len(shape) and all(varies(labels, [dim]) for dim in dims)
    return bool(dims) and not selected


def _refuse_attention(state: PropagationState) -> None:
    """Give attention as the reason for projections of heads that were refused on the way to their product."""
    inner: set[str] = set()
    for node in state.graph.nodes:
        if node.kind == "op" and node.op in ACTIVATION_PRODUCTS and weight_op(node) is None:
            inner.update(*(operand.sources for operand in node.inputs() if len(operand.sources) == 1))
    units = state.units
    units.reasons.append("attention heads' inner units (or another product of activations)")
    is_replaceable = torch.tensor(
        [reason.startswith(_REASONS_BEFORE_ATTENTION) for reason in units.reasons], device="cpu"
    )
    for producer in state.producers:
        if producer.node.name in inner:
            rows = slice(producer.first, producer.first + producer.count)
            refusal = units.refusal[rows]
            units.refusal[rows] = torch.where(is_replaceable[refusal], len(units.reasons) - 1, refusal)


def _fits(labels: Tensor, value: Tensor) -> bool:
    return labels.ndim == value.ndim and all(n in (1, size) for n, size in zip(labels.shape, value.shape, strict=True))


def _shapes(value: Any) -> Iterator[Any]:
    for item in value if isinstance(value, (tuple, list)) else (value,):
        yield item.shape if isinstance(item, Tensor) else ()


def _sizes(value: Any) -> Iterator[Any]:
    for shape in _shapes(value):
        yield from shape
