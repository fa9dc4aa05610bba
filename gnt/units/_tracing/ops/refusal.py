"""Refusal of the units that an operation reads, and the phrases that describe operations and values in reasons."""

from __future__ import annotations

from gnt.units._tracing.graph import Node
from gnt.units._tracing.labels import Labels
from gnt.units._tracing.state import PropagationState


def refuse_operands(state: PropagationState, node: Node, reason: str) -> Labels:
    """Refuse all units that a node reads; its result has no labels."""
    for operand in node.inputs():
        state.refuse(state.labels_of(operand), reason)
    return None


def refuse_unknown(state: PropagationState, node: Node) -> Labels:
    """Refuse the units of an operation whose effect on units is not known."""
    return refuse_operands(state, node, f"they are read by {describe_operation(node)}, which is not a weight layer")


def refuse_mixing(state: PropagationState, node: Node) -> Labels:
    """Refuse the units of an operation that computes values from several units."""
    return refuse_operands(state, node, f"they are mixed by {describe_operation(node)}")


def describe_operation(node: Node) -> str:
    """An operation and the module that runs it."""
    return f"{node.op!r} in {node.module!r}" if node.module else repr(node.op)


def describe_value(node: Node) -> str:
    """A value by what the user knows of its origin: the path of a module, a parameter, or an input."""
    for _ in range(100):
        if node.kind == "input":
            return f"the input {node.name!r}"
        if node.kind in ("parameter", "buffer"):
            return f"the {node.kind} {node.name!r}"
        if node.sources and node.name in node.sources:
            return f"{node.module!r}" if node.module else f"the {node.op!r}"
        if node.op in ("add", "sub") and node.from_input:
            return f"a sum in {node.module!r}" if node.module else "a sum"
        origin = next((operand for operand in node.inputs() if operand.from_input or operand.from_parameter), None)
        if origin is None:
            break
        node = origin
    return f"{node.op!r}"
