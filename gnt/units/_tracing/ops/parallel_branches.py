"""Parallel branches: layers that read the same value and whose results are summed, with no other reader (RepVGG)."""

from __future__ import annotations

from gnt.units._tracing.graph import Node
from gnt.units._tracing.state import PropagationState
from gnt.units._tracing.weight_ops import WeightOp, weight_op

# operations that keep a branch linear in each unit
_LINEAR = (
    "batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "native_batch_norm",
    "_native_batch_norm_legit_no_training", "_batch_norm_with_update_functional", "_batch_norm_no_update",
    "cudnn_batch_norm", "getitem", "dropout", "native_dropout", "_to_copy", "to", "alias", "clone", "contiguous",
)  # fmt: skip


def are_parallel_branches(state: PropagationState, node: Node, first: Node, second: Node) -> bool:
    """True if an operation sums two branches without activation whose layers all read one value.

    Row i of each layer is then a part of unit i. In a residual stream the layers read different values.
    """
    if node.op != "add" or node.argument("alpha") != 1 or first is second or first.shape != second.shape:
        return False
    left, right = _layers(state, first), _layers(state, second)
    return bool(left and right) and len({op.read for op in (*left, *right)}) == 1


def _layers(state: PropagationState, node: Node) -> list[WeightOp]:
    """The layers of which a value is the sum; empty if it is something else, or has another reader."""
    if len([user for user in node.users if user.op != "_assert_tensor_metadata"]) != 1:
        return []
    op = weight_op(node)
    if op is not None:
        return [op]
    if node.op in _LINEAR:
        source = node.args[0]
        if node.op == "getitem":
            source = source.args[0] if node.args[1] == 0 and source.op in _LINEAR else None
        return _layers(state, source) if isinstance(source, Node) else []
    if node.op != "add" or node.argument("alpha") != 1:
        return []
    parts = [_layers(state, other) for other in node.inputs() if other not in state.biases]
    return [op for part in parts for op in part] if all(parts) else []
