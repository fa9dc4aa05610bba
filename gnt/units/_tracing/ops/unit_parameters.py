"""Modules with one weight and one bias for each unit, ``x * weight + bias`` (MobileBERT's NoNorm)."""

from __future__ import annotations

from torch import Tensor

from gnt.units._layer_types import is_weight_layer
from gnt.units._tracing.capture import Node
from gnt.units._tracing.labels import expand, varies
from gnt.units._tracing.state import PropagationState
from gnt.units._tracing.weight_ops import parameter_behind


def is_unit_parameter(state: PropagationState, node: Node, labels: Tensor, carrier: Node, other: Node) -> bool:
    """True for the weight or the bias of such a module; its entries are recorded as scales of the units."""
    if node.op == "mul":
        if not _is_affine(state, node, carrier, other) or varies(labels, range(labels.ndim - 1)):
            return False
        row = expand(labels, [*[1] * (labels.ndim - 1), node.shape[-1]]).flatten()
        module, _ = state.owners.owner(other)
        state.add_scale(state.owners.path(module), module, 0, row, carrier)
        return True
    if node.op != "add" or carrier.op != "mul" or state.labels_of(carrier) is None:
        return False
    factors = [each for each in carrier.inputs() if each.kind == "parameter"]
    read = [each for each in carrier.inputs() if each.kind != "parameter"]
    return (
        len(factors) == len(read) == 1 and _is_affine(state, carrier, read[0], factors[0]) and node is carrier.users[0]
    )


def _is_affine(state: PropagationState, product: Node, read: Node, weight: Node) -> bool:
    """True if a module multiplies what it reads by its weight and then adds its bias, and does no more with them."""
    if weight.kind != "parameter" or weight.shape != product.shape[-1:] or read.shape != product.shape:
        return False
    module, key = state.owners.owner(weight)
    if key != "weight" or is_weight_layer(module) or state.owners.module_at(product.module) is not module:
        return False
    if set(dict(module.named_parameters())) != {"weight", "bias"} or any(True for _ in module.buffers()):
        return False
    if weight.users != [product] or len(product.users) != 1 or state.owners.sharing(weight) is not None:
        return False
    addition = product.users[0]
    biases = [each for each in addition.inputs() if each is not product]
    if addition.op != "add" or addition.module != product.module or addition.kwargs or len(biases) != 1:
        return False
    bias = parameter_behind(biases[0])[0]
    if bias is None or bias is not biases[0] or bias.users != [addition] or bias.shape != weight.shape:
        return False
    return state.owners.owner(bias) == (module, "bias") and state.owners.sharing(bias) is None
