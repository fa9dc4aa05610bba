"""Whether a layer with a forward of its own computes no more than its torch base class: what its graph contains."""

from __future__ import annotations

import inspect

from torch import nn

from gnt.units._tracing.graph import Node
from gnt.units._tracing.weight_ops import CASTS, WeightOp

_PADS = ("pad", "constant_pad_nd")
_RESHAPES = ("view", "reshape", "_unsafe_view")


def is_plain_forward(op: WeightOp, module: nn.Module) -> bool:
    """True if a forward is one weight operation on its only argument, which may be cast, padded or reshaped.

    The input of the module is then what the weight reads, and its result is the sum that the bias belongs to.
    """
    arguments = inspect.signature(module.forward).parameters.values()
    if len(arguments) != 1 or any(a.kind in (a.VAR_POSITIONAL, a.VAR_KEYWORD) for a in arguments):
        return False
    return _is_input(op, op.read) and _is_output(op, op.node)


def _is_input(op: WeightOp, node: Node) -> bool:
    """True if a value comes from outside the module, by casts, padding and reshapes of leading dimensions alone."""
    while node.kind == "op" and node.module == op.node.module:
        source = node.args[0]
        if not isinstance(source, Node) or not _keeps_channels(op, source, node):
            return False
        node = source
    return node.kind in ("op", "input")


def _is_output(op: WeightOp, node: Node) -> bool:
    """True if nothing but casts, reshapes and the bias follows within the module."""
    added = op.added_bias
    for user in node.users:
        if user.kind != "op" or user.module != op.node.module or user.op == "output":
            continue
        is_bias = added is not None and user is added[0]
        if not (is_bias or (user.op not in _PADS and _keeps_channels(op, node, user))) or not _is_output(op, user):
            return False
    return True


def _keeps_channels(op: WeightOp, read: Node, node: Node) -> bool:
    """True for a cast, a padding of pixels, or for linear layers a reshape of the other dimensions."""
    if node.op in _PADS:
        is_constant = node.op == "constant_pad_nd" or node.argument("mode") in (None, "constant")
        return is_constant and op.spatial > 0 and not any(list(node.args[1])[2 * op.spatial :])
    is_reshape = node.op in _RESHAPES and op.spatial == 0 and node.shape[-1:] == read.shape[-1:]
    return node.op in CASTS or is_reshape
