"""Recognition of activations: by module, by operation, or by the values that several operations compute."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnt.units._activations import GAINS, Activation, identify_activation, parse_activation
from gnt.units._tracing.graph import Node
from gnt.units._tracing.labels import UNKNOWN_ACTIVATION, Labels
from gnt.units._tracing.ops.compositions import function_of_units
from gnt.units._tracing.state import PropagationState

# operations that are linear in each unit, or only compare or mask values: not activations
_LINEAR = (
    "add", "sub", "rsub", "mul", "div", "true_divide", "neg", "where", "masked_fill", "_to_copy", "clone", "positive",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "isnan", "isinf", "bitwise_not",
    "nan_to_num", "masked_fill_", "copy", "fill", "isfinite",
)  # fmt: skip
_OP_NAMES = {"relu_": "relu", "clamp_min": "relu", "threshold": "relu", "rrelu_with_noise": "rrelu"}
# words in the class name of an activation module, in the order in which they are tried
_CLASS_NAME_WORDS = {
    "quickgelu": "gelu", "gelu": "gelu", "silu": "silu", "swish": "silu", "hardswish": "hardswish", "mish": "mish",
    "leakyrelu": "leaky_relu", "relu6": "relu6", "relu": "relu", "selu": "selu", "celu": "celu", "elu": "elu",
}  # fmt: skip


def record_activation(state: PropagationState, node: Node, operands: list[Node]) -> None:
    """Record the activation that an elementwise operation applies to the units that it reads."""
    labelled = [other for other in operands if state.labels_of(other) is not None]
    if not labelled:
        return
    labels = state.labels_of(labelled[0])
    kind = _activation_of_module(state, node)
    if kind is None and node.op not in _LINEAR:
        kind = _activation_of_op(node)
        if kind is None:
            state.units.set_activation(labels, UNKNOWN_ACTIVATION)
    if kind is None:
        if node.op not in _LINEAR or _may_be_nonlinear(node, labelled):
            _record_composition(state, node, labels)
    elif not state.units.has_activation(labels) or not _record_composition(state, node, labels):
        state.units.set_activation(labels, kind, replacing=[UNKNOWN_ACTIVATION])


def record_step(state: PropagationState, node: Node, labels: Labels) -> None:
    """Record that a comparison is used as a number, as in ``(h > 0).float()``; constant masks are no activation."""
    read, result = node.args[0].value, node.value
    is_number = isinstance(result, Tensor) and result.dtype != torch.bool
    if is_number and isinstance(read, Tensor) and read.dtype == torch.bool:
        _record_composition(state, node, labels)


def _may_be_nonlinear(node: Node, labelled: list[Node]) -> bool:
    """True if an operation that is linear in one operand reads units at several, or in a mask or divisor."""
    mask = {"where": 0, "masked_fill": 1, "div": 1, "true_divide": 1}.get(node.op)
    is_comparison = isinstance(node.value, Tensor) and node.value.dtype == torch.bool
    return not is_comparison and (len(labelled) > 1 or (mask is not None and node.args[mask] in labelled))


def _record_composition(state: PropagationState, node: Node, labels: Labels) -> bool:
    """Record the activation that several operations compute together, such as ``where(h > 0, h, 0.1 * h)``.

    Returns:
        Whether they compute a function of a single value of a unit. If it is not a known activation, then neither are
        the units' activations that it is composed of.
    """
    found = function_of_units(state, node)
    if found is None:
        if node.op in ("where", "masked_fill"):
            state.units.set_activation(labels, UNKNOWN_ACTIVATION)
        return False
    if not found.is_affine:
        kind, parts = found.activation(), found.operations[1:]  # without the last operation
        if kind is None:  # values that others read, too, are not only a part of it
            parts = tuple(part for part in parts if set(part.users) <= set(found.operations))
        inner = [other for other in map(_activation_of_op, parts) if other is not None]
        state.units.set_activation(labels, kind or UNKNOWN_ACTIVATION, replacing=[*inner, UNKNOWN_ACTIVATION])
    return True


def _activation_of_module(state: PropagationState, node: Node) -> Activation | None:
    """The activation of the module that runs an operation, by its type or class name; None if it is not one."""
    module = state.owners.module_at(node.module)
    known = identify_activation(module)
    if known is not None or not node.module or isinstance(module, nn.modules.linear.Linear):
        return known
    name = type(module).__name__.lower()
    if any(True for _ in module.children()) or not any(word in name for word in ("activation", "elu", "swish", "mish")):
        return None
    for word, kind in _CLASS_NAME_WORDS.items():
        if word in name:
            return parse_activation(kind)
    return None


def _activation_of_op(node: Node) -> Activation | None:
    """The activation that an operation computes, or None."""
    name = _OP_NAMES.get(node.op, node.op.rstrip("_"))
    if name == "elu" and node.argument("scale") not in (1, 1.0, None):
        name = "selu"
    if name == "hardtanh" and (node.argument("min_val"), node.argument("max_val")) == (0.0, 6.0):
        name = "relu6"
    if name == "erf":
        return "erf", None
    if name == "leaky_relu":
        return name, float(node.argument("negative_slope"))
    if name == "rrelu":
        return name, (float(node.argument("lower")) + float(node.argument("upper"))) / 2
    if node.op in ("clamp_min", "threshold") and any(value not in (0, 0.0) for value in node.args[1:3]):
        return None
    return (name, None) if name in GAINS and name != "identity" else None
