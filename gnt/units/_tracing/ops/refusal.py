"""Where units end without a weight layer that reads them: they are refused, and their labels with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gnt.units._tracing.capture import Node
from gnt.units._tracing.labels import Labels

if TYPE_CHECKING:
    from gnt.units._tracing.propagation import Flow


def end(flow: Flow, node: Node, reason: str) -> Labels:
    """Refuse all units that ``node`` reads; what it computes is nobody's."""
    for other in node.inputs():
        flow.units.refuse(flow.of(other), reason)
    return None


def unread(flow: Flow, node: Node) -> Labels:
    """An operation of which gnt does not know what it does to units."""
    return end(flow, node, f"they are read by {named(node)}, which is not a weight layer")


def mixed(flow: Flow, node: Node) -> Labels:
    """An operation that computes something of several units together."""
    return end(flow, node, f"they are mixed by {named(node)}")


def named(node: Node) -> str:
    """An operation, and the module that runs it."""
    return f"{node.op!r} in {node.module!r}" if node.module else repr(node.op)
