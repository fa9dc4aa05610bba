"""Operations that work element by element: a unit stays itself, two units that meet become one or are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gnt.units._activations import GAINS, Activation, identify_activation
from gnt.units._tracing.capture import Node
from gnt.units._tracing.labels import UNIT, Labels, aligned, compact, full, spread

if TYPE_CHECKING:
    from gnt.units._tracing.propagation import Flow

# linear in each unit, or deciding nothing of its size: no activation
_LINEAR = (
    "add", "sub", "rsub", "mul", "div", "true_divide", "neg", "where", "masked_fill", "_to_copy", "clone", "positive",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "isnan", "isinf", "bitwise_not",
    "nan_to_num", "masked_fill_", "copy", "fill", "isfinite",
)  # fmt: skip
_UNTAGGED = (
    "relu", "relu6", "selu", "celu", "elu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "softplus",
    "softsign", "log_sigmoid", "log_sigmoid_forward", "leaky_relu", "rrelu", "rrelu_with_noise", "threshold", "sigmoid",
    "tanh", "square", "clamp", "clamp_min", "clamp_max", "rrelu_with_noise_functional", "tanhshrink", "hardshrink",
    "softshrink", "add", "sub", "rsub", "mul", "div", "where", "masked_fill", "true_divide", "erf", "erfc",
)  # fmt: skip
_NAMES = {"relu_": "relu", "clamp_min": "relu", "threshold": "relu", "rrelu_with_noise": "rrelu"}
# by-hand composites: x times a function of x is an activation of its own
_COMPOSITES = {"sigmoid": "silu", "tanh": "gelu", "erf": "gelu", "softplus": "mish", "hardsigmoid": "hardswish"}
_UNKNOWN = "?"


def pointwise(flow: Flow, node: Node) -> Any:
    """One operand with units: they stay. Several: the same units stay; products are joined; all else is refused."""
    operands = [other for other in node.inputs() if _is_tensor(other)]
    rank = len(_first(node.value).shape)
    labels: Labels = None
    carrier: Node | None = None
    for other in operands:
        there = flow.of(other)
        if there is None:
            continue
        there = aligned(there, rank)
        if labels is None or carrier is None:
            labels, carrier = there, other
        elif node.op == "mul":
            labels = _join(flow, node, labels, there, carrier, other)
        else:
            labels = _meet(flow, node, labels, there, carrier, other)
    if labels is not None and carrier is not None:
        for other in operands:
            if flow.of(other) is None and not _harmless(node, labels, carrier, other):
                flow.units.refuse(labels, _reason(node, other))
                labels = None
                break
    _note_activation(flow, node, operands)
    return tuple([labels] * len(node.value)) if isinstance(node.value, (tuple, list)) else labels


def glu(flow: Flow, node: Node) -> Any:
    """Gated linear unit: one half times the sigmoid of the other."""
    labels, dim = flow.of(node.args[0]), node.argument("dim")
    left, right = (compact(half) for half in full(labels, node.args[0].shape).chunk(2, dim))
    flow.units.note(right, ("sigmoid", None))
    return _join(flow, node, _or_nobody(left), _or_nobody(right), node, node)


def _or_nobody(labels: Labels) -> Tensor:
    return torch.zeros((), dtype=torch.int64) if labels is None else labels


def _join(flow: Flow, node: Node, a: Tensor, b: Tensor, first: Node, second: Node) -> Labels:
    """Units that are multiplied with each other, one to one, are one unit; others gate, and cannot be replaced."""
    left, right = flow.units.join(a, b)
    for units, other in ((left, second), (right, first)):
        flow.units.refuse(units, f"each of them is multiplied with several units, of {describe(other)}")
    a, b = spread(a, b)
    alone = (a > 0) != (b > 0)  # where one side is a part of a value that is nobody's
    flow.units.refuse(torch.where(alone, a, 0), _reason(node, second))
    flow.units.refuse(torch.where(alone, b, 0), _reason(node, first))
    # a gate for several units is refused, and they go on by themselves
    gate = torch.isin(a & UNIT, left) & ~torch.isin(b & UNIT, right)
    return compact(torch.where(alone, 0, torch.where(gate, b, a)))


def _meet(flow: Flow, node: Node, a: Tensor, b: Tensor, first: Node, second: Node) -> Labels:
    """Two operands with units, of an operation that is no product: they must be the same units."""
    a, b = spread(a, b)
    same = flow.units.same(a, b)
    if not same.all():
        flow.units.refuse(torch.where(same, 0, a), _reason(node, second))
        flow.units.refuse(torch.where(same, 0, b), _reason(node, first))
    return compact(torch.where(same, a, 0))


def _harmless(node: Node, labels: Tensor, carrier: Node, other: Node) -> bool:
    """Whether an operand without units leaves every unit itself: a constant, a mask, a gate from outside."""
    if not other.from_input and not other.from_parameter:
        return True
    rank = labels.ndim
    shape, own = ((1,) * (rank - len(one.shape)) + one.shape for one in (other, carrier))
    alike = all(there == 1 or here == 1 for here, there in zip(labels.shape, shape, strict=True))
    if not other.from_input:
        return alike and (labels.numel() > 1 or other.value.numel() == 1)
    if any(there > here for here, there in zip(own, shape, strict=True)):
        return False  # the unit would be spread over values that are not its own
    masks = node.op in ("where", "masked_fill") and other is node.args[node.op == "masked_fill"]
    return masks or (node.op in ("mul", "div", "true_divide") and (alike or not other.sources))


def _reason(node: Node, other: Node) -> str:
    if other.kind == "parameter" or (other.from_parameter and not other.from_input):
        return f"they meet {describe(other)} in {node.op!r}, of which gnt does not know what belongs to a unit"
    if node.op in ("add", "sub", "rsub"):
        return f"its channels are summed with {describe(other)} (a residual stream)"
    return f"they meet {describe(other)}, which are not units of theirs, in {node.op!r}"


def describe(node: Node) -> str:
    """A value by the place that a user knows: a module's path, a parameter, an input."""
    for _ in range(100):
        if node.kind == "input":
            return f"the input {node.name!r}"
        if node.kind in ("parameter", "buffer"):
            return f"the {node.kind} {node.name!r}"
        if node.sources and node.name in node.sources:
            return f"{node.module!r}" if node.module else f"the {node.op!r}"
        if node.op in ("add", "sub") and node.from_input:
            return f"a sum in {node.module!r}" if node.module else "a sum"
        following = next((other for other in node.inputs() if other.from_input or other.from_parameter), None)
        if following is None:
            break
        node = following
    return f"{node.op!r}"


def _is_tensor(node: Node) -> bool:
    return isinstance(node.value, Tensor)


def _first(value: Any) -> Tensor:
    first = value[0] if isinstance(value, (tuple, list)) else value
    assert isinstance(first, Tensor)
    return first


def _note_activation(flow: Flow, node: Node, operands: list[Node]) -> None:
    labelled = [other for other in operands if flow.of(other) is not None]
    if not labelled:
        return
    labels = flow.of(labelled[0])
    kind = _activation_of_module(flow, node)
    if kind is not None:
        flow.units.note(labels, kind, over=[_UNKNOWN])
    elif node.op in ("mul", "div") and len(labelled) == 2:
        _note_composite(flow, labelled, labels)
    elif node.op not in _LINEAR:
        kind = activation_of(node)
        flow.units.note(labels, kind or _UNKNOWN, over=[_UNKNOWN] if kind else [])


def _note_composite(flow: Flow, factors: list[Node], labels: Labels) -> None:
    a, b = (flow.of(factor) for factor in factors)
    if a is not None and b is not None and a.shape == b.shape and bool(flow.units.same(a, b).all()):
        for inner, outer in _COMPOSITES.items():
            if any(_comes_from(factor, inner) for factor in factors):
                flow.units.note(labels, (outer, None), over=[(inner, None), _UNKNOWN])
                return


def _comes_from(node: Node, op: str) -> bool:
    """Whether a factor is that function, up to constants: sigmoid(x), 0.5 * (1 + tanh(...))."""
    for _ in range(6):
        if node.op == op:
            return True
        tensors = [other for other in node.inputs() if other.from_input]
        if node.op not in ("mul", "add", "div", "_to_copy") or len(tensors) != 1:
            return False
        node = tensors[0]
    return False


def _activation_of_module(flow: Flow, node: Node) -> Activation | None:
    module = flow.owners.module_at(node.module)
    known = identify_activation(module)
    if known is not None or not node.module or isinstance(module, nn.modules.linear.Linear):
        return known
    name = type(module).__name__.lower()
    if any(True for _ in module.children()) or not any(word in name for word in ("activation", "elu", "swish", "mish")):
        return None
    words = (
        "quickgelu",
        "gelu",
        "silu",
        "swish",
        "hardswish",
        "mish",
        "leakyrelu",
        "relu6",
        "relu",
        "selu",
        "celu",
        "elu",
    )
    for word in words:
        if word in name:
            word = {"quickgelu": "gelu", "swish": "silu", "leakyrelu": "leaky_relu"}.get(word, word)
            return word, 0.01 if word == "leaky_relu" else None
    return None


def activation_of(node: Node) -> Activation | None:
    """The activation that an operation is, or None."""
    name = _NAMES.get(node.op, node.op.rstrip("_"))
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


POINTWISE: dict[str, Callable[[Any, Node], Any]] = dict.fromkeys(_UNTAGGED, pointwise)
