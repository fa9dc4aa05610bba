"""Recognition of activations: by module, by operation, or as a product written out by hand."""

from __future__ import annotations

from torch import nn

from gnt.units._activations import GAINS, Activation, identify_activation
from gnt.units._tracing.capture import Node
from gnt.units._tracing.labels import UNKNOWN_ACTIVATION, Labels
from gnt.units._tracing.state import PropagationState

# operations that are linear in each unit, or only compare or mask values: not activations
_LINEAR = (
    "add", "sub", "rsub", "mul", "div", "true_divide", "neg", "where", "masked_fill", "_to_copy", "clone", "positive",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "isnan", "isinf", "bitwise_not",
    "nan_to_num", "masked_fill_", "copy", "fill", "isfinite",
)  # fmt: skip
_OP_NAMES = {"relu_": "relu", "clamp_min": "relu", "threshold": "relu", "rrelu_with_noise": "rrelu"}
# x times a function of x, as written by hand, is an activation itself
_COMPOSITES = {"sigmoid": "silu", "tanh": "gelu", "erf": "gelu", "softplus": "mish", "hardsigmoid": "hardswish"}
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
    if kind is not None:
        state.units.set_activation(labels, kind, replacing=[UNKNOWN_ACTIVATION])
    elif node.op in ("mul", "div") and len(labelled) == 2:
        _record_composite(state, labelled, labels)
    elif node.op not in _LINEAR:
        kind = _activation_of_op(node)
        state.units.set_activation(labels, kind or UNKNOWN_ACTIVATION, replacing=[UNKNOWN_ACTIVATION] if kind else [])


def _record_composite(state: PropagationState, factors: list[Node], labels: Labels) -> None:
    a, b = (state.labels_of(factor) for factor in factors)
    if a is not None and b is not None and a.shape == b.shape and bool(state.units.same_unit(a, b).all()):
        for inner, outer in _COMPOSITES.items():
            if any(_comes_from(factor, inner) for factor in factors):
                state.units.set_activation(labels, (outer, None), replacing=[(inner, None), UNKNOWN_ACTIVATION])
                return


def _comes_from(node: Node, op: str) -> bool:
    """True if a factor is that function up to constants, such as sigmoid(x) or 0.5 * (1 + tanh(...))."""
    for _ in range(6):
        if node.op == op:
            return True
        tensors = [other for other in node.inputs() if other.from_input]
        if node.op not in ("mul", "add", "div", "_to_copy") or len(tensors) != 1:
            return False
        node = tensors[0]
    return False


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
            return kind, 0.01 if kind == "leaky_relu" else None
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
