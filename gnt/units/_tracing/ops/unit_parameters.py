"""Modules whose parameters have one entry for each unit.

They compute ``x * weight + bias`` (MobileBERT's NoNorm), or add this to their input: ``x + gamma * y + beta`` (GRN of
ConvNeXt V2). A replaced unit gets 1 and 0 in the first form, and 0 and 0 in the second, which is then ``x``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from gnt.units._layer_types import is_weight_layer
from gnt.units._tracing.graph import Node
from gnt.units._tracing.labels import expand, varies
from gnt.units._tracing.state import PropagationState

_VIEWS = ("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "alias")


@dataclass(frozen=True)
class UnitParameters:
    """The parameters of such a module.

    Attributes:
        module: the module.
        product: the operation that multiplies by the scale.
        scale, shift: the parameters as the module reads them, perhaps reshaped; ``shift`` may be None.
        values: their values for a replaced unit, by name; None if they are those of a norm: weight 1, bias 0.
        dim: the dimension of the parameters along which the units lie, if they have several.
    """

    module: nn.Module
    product: Node
    scale: Node
    shift: Node | None
    values: Mapping[str, float] | None
    dim: int


def unit_parameters(state: PropagationState, path: str) -> UnitParameters | None:
    """The parameters of the module at a path; None if it computes something else with them."""
    if path not in state.unit_parameters:
        state.unit_parameters[path] = _find(state, state.owners.module_at(path))
    found: UnitParameters | None = state.unit_parameters[path]
    return found


def is_unit_parameter(state: PropagationState, node: Node, labels: Tensor, carrier: Node, other: Node) -> bool:
    """True if ``other`` is such a parameter; its entries are recorded as those of the units."""
    found = unit_parameters(state, node.module)
    if found is None or (other is not found.scale and other is not found.shift):
        return False
    if node is not found.product or other is found.shift:
        return True
    padded = (1,) * (labels.ndim - len(other.shape)) + other.shape
    dim = next((d for d, size in enumerate(padded) if size > 1), labels.ndim - 1)
    if varies(labels, [d for d in range(labels.ndim) if d != dim]):
        return False
    row = expand(labels, [node.shape[d] if d == dim else 1 for d in range(labels.ndim)]).flatten()
    state.add_scale(state.owners.path(found.module), found.module, found.dim, row, carrier, found.values)
    return True


def _find(state: PropagationState, module: nn.Module) -> UnitParameters | None:
    own = [key for key, parameter in module._parameters.items() if parameter is not None]
    if is_weight_layer(module) or len(own) not in (1, 2) or any(True for _ in module.buffers()):
        return None
    nodes = {state.owners.owner(node)[1]: node for node in state.graph.nodes if _belongs_to(state, node, module)}
    if not set(dict(module.named_parameters())) == set(own) == set(nodes):
        return None
    operands, users = {}, {}
    for key, node in nodes.items():
        found = _read_by(node)
        if found is None or state.owners.sharing(node) is not None:
            return None
        operands[key], users[key] = found
    scales = [key for key in own if _multiplies(operands[key], users[key])]
    if len(scales) != 1:
        return None
    (scale,), product = scales, users[scales[0]]
    shift = next((key for key in own if key != scale), None)
    added = _summands(state, product, module)
    factors = [other for other in _factors(product) if other is not operands[scale]]
    if len(factors) != 1 or factors[0].shape != product.shape or added is None:
        return None
    read = [other for other in added if shift is None or other is not operands[shift]]
    if len(added) - len(read) != (shift is not None) or len(read) > 1 or not (read or shift):
        return None
    values = {scale: 0.0 if read else 1.0, **({shift: 0.0} if shift else {})}
    dim = _unit_dim([nodes[key] for key in own])
    if dim is None:
        return None
    is_standard = values == {"weight": 1.0, "bias": 0.0}
    shifted = operands[shift] if shift else None
    return UnitParameters(module, product, operands[scale], shifted, None if is_standard else values, dim)


def _belongs_to(state: PropagationState, node: Node, module: nn.Module) -> bool:
    return node.kind == "parameter" and bool(node.users) and state.owners.owner(node)[0] is module


def _read_by(node: Node) -> tuple[Node, Node] | None:
    """The parameter as the operation that computes with it reads it, and this operation; None if several do."""
    while len(node.users) == 1:
        user = node.users[0]
        if user.op not in _VIEWS or math.prod(user.shape) != math.prod(node.shape):
            return node, user
        node = user
    return None


def _factors(product: Node) -> list[Node]:
    factors = product.args[1:3] if product.op == "addcmul" else product.args
    return [factor for factor in factors if isinstance(factor, Node)]


def _multiplies(operand: Node, user: Node) -> bool:
    is_product = user.op == "mul" or (user.op == "addcmul" and user.argument("value") == 1)
    return is_product and operand in _factors(user)


def _summands(state: PropagationState, product: Node, module: nn.Module) -> list[Node] | None:
    """What the module adds to a product; None if the product is computed in another module, or is an odd sum."""
    if state.owners.module_at(product.module) is not module:
        return None
    added = [product.args[0]] if product.op == "addcmul" else []
    total = product
    while [user.op for user in total.users] == ["add"]:
        user = total.users[0]
        others = [other for other in user.inputs() if other is not total]
        if len(others) != 1 or not _is_sum(state, user, module):
            break
        if user.shape != product.shape:
            return None
        added += others
        total = user
    return [term for other in added for term in _terms(state, other, module)]


def _is_sum(state: PropagationState, node: Node, module: nn.Module) -> bool:
    return node.op == "add" and node.argument("alpha") == 1 and state.owners.module_at(node.module) is module


def _terms(state: PropagationState, node: Node, module: nn.Module) -> list[Node]:
    """The values of which a value is the sum, if it is computed in the module for one reader."""
    if not _is_sum(state, node, module) or len(node.users) != 1 or len(list(node.inputs())) != 2:
        return [node]
    return [term for other in node.inputs() for term in _terms(state, other, module)]


def _unit_dim(parameters: list[Node]) -> int | None:
    """The only dimension in which the parameters are larger than 1; None if it differs, or there are several."""
    dims = set()
    for parameter in parameters:
        long = [dim for dim, size in enumerate(parameter.shape) if size > 1]
        if len(long) > 1 or math.prod(parameter.shape) != math.prod(parameters[0].shape) or not parameter.shape:
            return None
        if len(parameter.shape) > 1:
            dims.add(long[0] if long else 0)
    return None if len(dims) > 1 else next(iter(dims), 0)
