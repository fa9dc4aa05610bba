"""Elementwise operations: units stay separate; units that coincide are joined by a product or a sum of branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gnt.units._tracing.graph import Node
from gnt.units._tracing.labels import Labels, add_leading_dims, broadcast, compact, expand, units_of
from gnt.units._tracing.ops.activations import record_activation
from gnt.units._tracing.ops.elementwise import ELEMENTWISE
from gnt.units._tracing.ops.parallel_branches import are_parallel_branches
from gnt.units._tracing.ops.refusal import describe_value
from gnt.units._tracing.ops.unit_parameters import is_unit_parameter
from gnt.units._tracing.ops.weighted_branches import add_branches, are_weighted_branches
from gnt.units._tracing.state import PropagationState


def pointwise(state: PropagationState, node: Node) -> Any:
    """Labels of an elementwise operation.

    The units of a single operand are kept. Of several operands, equal units are kept, the units of a product and of
    parallel branches are joined, and all others are refused.
    """
    operands = [other for other in node.inputs() if _is_tensor(other) and other not in state.biases]
    rank = len(_first(node.value).shape)
    labels: Labels = None
    carrier: Node | None = None
    for operand in operands:
        operand_labels = state.labels_of(operand)
        if operand_labels is None:
            continue
        operand_labels = add_leading_dims(operand_labels, rank)
        if labels is None or carrier is None:
            labels, carrier = operand_labels, operand
        elif node.op == "mul":
            labels = _join(state, node, labels, operand_labels, carrier, operand)
        else:
            labels = _keep_equal(state, node, labels, operand_labels, carrier, operand)
    if labels is not None and carrier is not None:
        for operand in operands:
            if state.labels_of(operand) is not None or _keeps_units_separate(node, labels, carrier, operand):
                continue
            if not is_unit_parameter(state, node, labels, carrier, operand):
                state.refuse(labels, _reason(node, operand))
                labels = None
                break
    record_activation(state, node, operands)
    return tuple([labels] * len(node.value)) if isinstance(node.value, (tuple, list)) else labels


def glu(state: PropagationState, node: Node) -> Any:
    """Gated linear unit: one half of the channels times the sigmoid of the other."""
    labels, dim = state.labels_of(node.args[0]), node.argument("dim")
    left, right = (compact(half) for half in expand(labels, node.args[0].shape).chunk(2, dim))
    state.units.set_activation(right, ("sigmoid", None))
    return _join(state, node, _or_zeros(left), _or_zeros(right), node, node)


def _or_zeros(labels: Labels) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device="cpu") if labels is None else labels


def _join(state: PropagationState, node: Node, a: Tensor, b: Tensor, first: Node, second: Node) -> Labels:
    """Join units that are multiplied one to one; refuse units that multiply (gate) several others."""
    left, right = state.units.join(a, b)
    for units, other in ((left, second), (right, first)):
        state.refuse(units, f"each of them is multiplied by several units of {describe_value(other)}")
    a, b = broadcast(a, b)
    unpaired = (a > 0) != (b > 0)  # the other factor belongs to no unit here
    state.refuse(torch.where(unpaired, a, 0), _reason(node, second))
    state.refuse(torch.where(unpaired, b, 0), _reason(node, first))
    # a gate of several units is refused, and their labels continue without it
    gate = torch.isin(units_of(a), left) & ~torch.isin(units_of(b), right)
    return compact(torch.where(unpaired, 0, torch.where(gate, b, a)))


def _keep_equal(state: PropagationState, node: Node, a: Tensor, b: Tensor, first: Node, second: Node) -> Labels:
    """Keep equal units of two operands, join parallel branches, refuse others; for all operations except products."""
    if are_weighted_branches(state, node):
        return add_branches(state, node, a, b)
    if are_parallel_branches(state, node, first, second):
        state.units.join_summands(a, b)
    a, b = broadcast(a, b)
    same = state.units.same_unit(a, b)
    if not same.all():
        state.refuse(torch.where(same, 0, a), _reason(node, second))
        state.refuse(torch.where(same, 0, b), _reason(node, first))
    return compact(torch.where(same, a, 0))


def _keeps_units_separate(node: Node, labels: Tensor, carrier: Node, other: Node) -> bool:
    """True if an operand without units is the same for all units, or acts on each alone: a constant, mask or gate."""
    if not other.from_input and not other.from_parameter:
        return True
    ndim = labels.ndim
    shape, carrier_shape = ((1,) * (ndim - len(value.shape)) + value.shape for value in (other, carrier))
    same_for_all_units = all(size == 1 or n == 1 for n, size in zip(labels.shape, shape, strict=True))
    if not other.from_input:
        return same_for_all_units and (labels.numel() > 1 or other.value.numel() == 1)
    if any(size > n for n, size in zip(carrier_shape, shape, strict=True)):
        return False  # the unit would be broadcast over values that do not belong to it
    is_mask = node.op in ("where", "masked_fill") and other is node.args[node.op == "masked_fill"]
    return is_mask or (node.op in ("mul", "div", "true_divide") and (same_for_all_units or not other.sources))


def _reason(node: Node, other: Node) -> str:
    value = describe_value(other)
    if other.kind == "parameter" or (other.from_parameter and not other.from_input):
        return f"they are combined with {value} in {node.op!r}: gnt does not know which part belongs to a unit"
    if node.op in ("add", "sub", "rsub"):
        return f"its channels are summed with {value} (a residual stream)"
    return f"they are combined with {value} in {node.op!r}, which does not have the same units"


def _is_tensor(node: Node) -> bool:
    return isinstance(node.value, Tensor)


def _first(value: Any) -> Tensor:
    first = value[0] if isinstance(value, (tuple, list)) else value
    assert isinstance(first, Tensor)
    return first


POINTWISE: dict[str, Callable[[Any, Node], Any]] = dict.fromkeys(ELEMENTWISE, pointwise)
