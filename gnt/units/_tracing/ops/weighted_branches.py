"""Branches that are summed with weights from a softmax over the branches (selective kernels, split attention).

SKNet and ResNeSt compute ``sum_b a_b * x_b``, with ``a = softmax(gate(mean(sum_b x_b)))`` over the branches b. Channel
c of all branches, and the gate's rows for it, are one unit: the sum that the gate reads, the softmax and the weighted
sum combine values of this unit alone. The weighted sum joins them. The other two come before it, so it is checked at
the end that what they combined has become one unit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from gnt.units._tracing.graph import Graph, Node
from gnt.units._tracing.labels import Labels, broadcast, compact, expand, units_of
from gnt.units._tracing.ops.movement import MOVES
from gnt.units._tracing.ops.refusal import describe_operation, refuse_mixing
from gnt.units._tracing.state import PropagationState

_SOFTMAX = ("softmax", "_softmax")
_KEPT = (*MOVES, "_to_copy", "to", "alias", "clone", "contiguous", "type_as", "getitem")
_SUMS = ("sum", "mean")


def softmax_of_branches(state: PropagationState, node: Node, labels: Tensor, dim: int) -> Labels:
    """Labels of a softmax over a dimension along which the units vary: refused unless it weighs branches."""
    if node not in _weights(state):
        return refuse_mixing(state, node)
    whole = expand(labels, [node.shape[d] if d == dim else n for d, n in enumerate(labels.shape)])
    _check_later(state, node, whole.movedim(dim, 0))
    return labels


def sum_over_branches(state: PropagationState, node: Node, labels: Tensor, dim: int) -> Labels:
    """Labels of a sum over a dimension along which the units vary: refused unless its elements are branches."""
    read = node.args[0]
    is_weighted = node.op in _SUMS and read.op == "mul" and _weights_of(read) in _weights(state)
    if not is_weighted and not (node.op in _SUMS and _is_weighted_elsewhere(state, read)):
        return refuse_mixing(state, node)
    branches = expand(labels, [n if d != dim else read.shape[d] for d, n in enumerate(labels.shape)]).unbind(dim)
    result: Labels = branches[0]
    for other in branches[1:]:
        result = _combine(state, node, expand(result, branches[0].shape), other, join=is_weighted)
    if result is not None and len(node.shape) == labels.ndim:
        result = result.unsqueeze(dim)
    return result


def add_branches(state: PropagationState, node: Node, a: Tensor, b: Tensor) -> Labels:
    """Labels of the sum of two branches, for which `are_weighted_branches` is true."""
    a, b = broadcast(a, b)
    return _combine(state, node, a, b, join=_weights_of(node) is not None)


def are_weighted_branches(state: PropagationState, node: Node) -> bool:
    """True if an operation adds two branches, or two branches with their weights."""
    if node.op != "add" or node.argument("alpha") != 1:
        return False
    return _weights_of(node) in _weights(state) or all(
        _is_weighted_elsewhere(state, branch) for branch in _summands(node)
    )


def refuse_unjoined_branches(state: PropagationState) -> None:
    """Refuse units that were combined as if they were one, and are not."""
    root = state.units.root
    for labels, reason in state.combined:
        roots = root[units_of(labels)]
        state.refuse(labels[:, (roots != roots[0]).any(0)], reason)


def _combine(state: PropagationState, node: Node, a: Tensor, b: Tensor, *, join: bool) -> Labels:
    """Labels of the sum of two branches; with ``join``, their units are made one."""
    if join:
        state.units.join(a, b)
    _check_later(state, node, torch.stack([a, b]))
    return compact(torch.where((a > 0) & (b > 0), a, 0))


def _check_later(state: PropagationState, node: Node, labels: Tensor) -> None:
    """Record that the units along the first dimension of ``labels`` are combined by an operation."""
    state.combined.append((labels.flatten(1), f"they are mixed by {describe_operation(node)}"))


def _weights(state: PropagationState) -> frozenset[Node]:
    """All softmax operations that weigh the branches of a sum."""
    if state.branch_weights is None:
        state.branch_weights = frozenset(_find_weights(state.graph))
    return state.branch_weights


def _find_weights(graph: Graph) -> Iterator[Node]:
    branches: dict[Node, set[str]] = {}  # by their weights: the layers that compute them
    for node in graph.nodes:
        weights = _weights_of(node) if node.op == "mul" else None
        if weights is not None:
            found = [factor.sources for factor in node.inputs() if _softmax_behind(factor) is None]
            branches.setdefault(weights, set()).update(*found)
    for node in graph.nodes:
        total = node.args[0] if node.op in _SUMS and node.args[0].op == "mul" else node if node.op == "add" else None
        weights = _weights_of(total) if total is not None else None
        if weights is not None and not _depend_on_each_other(graph, branches[weights]):
            yield weights


def _depend_on_each_other(graph: Graph, names: Collection[str]) -> bool:
    """True if a layer among them reads what another one has computed: the branches are then a residual stream."""
    waiting = [read for node in graph.nodes if node.name in names for read in node.inputs()]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name in names:
            return True
        new = [read for read in node.inputs() if read not in seen] if node.kind == "op" else []
        seen.update(new)
        waiting += new
    return False


def _weights_of(node: Node) -> Node | None:
    """The softmax with which a value, or each summand of a sum, is multiplied; None if there is none."""
    if node.op == "mul":
        found = [softmax for factor in node.inputs() if (softmax := _softmax_behind(factor)) is not None]
        return found[0] if len(found) == 1 else None
    if node.op == "add" and node.argument("alpha") == 1:
        weights = {_weights_of(summand) for summand in node.inputs()}
        return weights.pop() if len(weights) == 1 else None
    return None


def _softmax_behind(node: Node) -> Node | None:
    """The softmax of which a value is a part, perhaps reshaped."""
    while node.kind == "op" and node.op in _KEPT and isinstance(node.args[0], Node):
        node = node.args[0]
    return node if node.op in _SOFTMAX else None


def _is_weighted_elsewhere(state: PropagationState, branch: Node) -> bool:
    """True if a value is also multiplied by weights of branches."""
    return any(user.op == "mul" and _weights_of(user) in _weights(state) for user in branch.users)


def _summands(node: Node) -> Iterator[Node]:
    """The values that nested additions sum."""
    for other in node.inputs():
        if other.op == "add" and other.argument("alpha") == 1:
            yield from _summands(other)
        else:
            yield other
