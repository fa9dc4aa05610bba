"""Values that a graph returns so that the compiler stores them instead of computing them again for each reader.

The compiler writes elementwise operations into the loops of what reads them. If these loops are longer, because they
broadcast the value or because a product over one sample is a loop over the whole weight, the value is computed again in
each iteration: normalized inputs once for each unit of the first layer, a bias correction once for each weight. What a
graph returns is stored.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

MIN_OPERATIONS = 4  # cheap elementwise operations that are needed for a value, from values that are stored
MIN_REPEATS = 8  # iterations that read an element of it
MIN_SAVED = 1 << 16  # operations that storing it saves: another output takes about two microseconds

_aten = torch.ops.aten
_PRODUCTS: dict[Any, int] = {
    _aten.mm.default: 0,
    _aten.bmm.default: 0,
    _aten.addmm.default: 1,
    _aten.baddbmm.default: 1,
}
"""Products of matrices, and which argument is their first matrix."""
_VIEWS = {_aten._unsafe_view.default, _aten.detach.default}
"""Operations that compute nothing, besides those that torch knows as views."""
_CHEAP = {
    *(_aten.add, _aten.sub, _aten.rsub, _aten.mul, _aten.neg, _aten.abs, _aten.where, _aten.lerp, _aten.clone),
    *(_aten.relu, _aten.threshold_backward, _aten.clamp, _aten.minimum, _aten.maximum, _aten._to_copy),
    *(_aten.eq, _aten.ne, _aten.lt, _aten.le, _aten.gt, _aten.ge, _aten.logical_and, _aten.bitwise_and),
}
_DEAR = 4  # how many cheap operations any other one is taken for: quotients, roots, exponentials, activations


def return_repeated_values(graph: GraphModule) -> None:
    """Add to the outputs of a graph of aten operations each value that would be computed too often."""
    operations: dict[Node, int] = {}  # for each node: operations that are needed for an element, from what is stored
    stored: list[Node] = []
    for node in graph.graph.nodes:
        inputs = sum(operations.get(each, 0) for each in node.all_input_nodes)
        if _is_view(node):
            operations[node] = inputs
        elif _is_elementwise(node):
            own = 1 if node.target.overloadpacket in _CHEAP else _DEAR
            operations[node] = min(inputs + own, 1000)  # what two inputs share is counted twice
            if _is_repeated(node, operations[node]) or _is_expanded_scalar(node):
                stored.append(node)
                operations[node] = 0
    if stored:
        (output,) = graph.graph.find_nodes(op="output")
        output.args = ((*output.args[0], *stored),)
        graph.recompile()


def _is_view(node: Node) -> bool:
    return node.target in _VIEWS or bool(getattr(node.target, "is_view", False))


def _is_elementwise(node: Node) -> bool:
    target: Any = node.target
    pointwise = torch.Tag.pointwise in getattr(target, "tags", ()) or target is _aten._to_copy.default
    return pointwise and not target._schema.is_mutable


def _is_repeated(node: Node, operations: int) -> bool:
    own = _numel(node)
    read = max((_iterations(user, own) for user in _readers(node)), default=0)
    repeats = read // max(own, 1)
    return operations >= MIN_OPERATIONS and repeats >= MIN_REPEATS and operations * (read - own) >= MIN_SAVED


def _is_expanded_scalar(node: Node) -> bool:
    """True for ``scalar.expand(shape).clone()``, by which an optimizer asks for a stored value."""
    source = node.args[0] if node.target is _aten.clone.default else None
    if not isinstance(source, Node) or source.target is not _aten.expand.default:
        return False
    scalar = source.args[0]
    return isinstance(scalar, Node) and _numel(scalar) == 1


def _readers(node: Node) -> list[Node]:
    """What reads a value, itself or a view of it."""
    found: list[Node] = []
    for user in node.users:
        found += _readers(user) if _is_view(user) else [user]
    return found


def _iterations(reader: Node, own: int) -> int:
    """Length of the loop in which the compiler computes what reads a value of ``own`` elements."""
    first = _PRODUCTS.get(reader.target)
    if first is not None:
        left, right = (_value(each) for each in reader.args[first : first + 2])
        sizes = (*left.shape, right.shape[-1])
        return math.prod(sizes) if 1 in sizes[-3:] else own  # the library computes other products
    return _numel(reader) if _is_elementwise(reader) else own


def _numel(node: Node) -> int:
    value = node.meta.get("val")
    return value.numel() if isinstance(value, Tensor) else 0


def _value(node: Any) -> Tensor:
    value: Tensor = node.meta["val"]
    return value
