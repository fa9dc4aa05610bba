"""The forward of a model as a graph of torch operations, in a simple form.

A `Node` is an operation, or a value that enters the graph: a parameter, buffer, constant or input. Each node knows the
module in which it runs and the weights from which its value is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

# operations that compute new features from their input with weights
WEIGHT_OPS = (
    "linear", "conv1d", "conv2d", "conv3d", "convolution", "addmm", "mm", "matmul", "bmm", "einsum", "bilinear",
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "embedding", "embedding_bag", "lstm", "gru",
    "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
)  # fmt: skip

# operations that use only the shape of their input
CREATION_OPS = (
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like", "new_zeros",
    "new_ones", "new_full", "new_empty",
)  # fmt: skip
# how an output that is not returned leaves the forward
IN_BUFFER, IN_INPUT = "stored in buffer {!r}", "written into the model's input"
_RESHAPING = (*CREATION_OPS, "view", "reshape", "_unsafe_view", "expand", "unflatten", "repeat")


@dataclass(eq=False)
class Node:
    """An operation or input_specs value of a forward; its value is one tensor or a tuple of them."""

    name: str
    kind: str  # "op", "parameter", "buffer", "constant", "input"
    op: str = ""  # such as "relu"; "getitem" selects an item of a tuple
    call: Any = None  # the torch operator
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    value: Any = None  # fake tensor, tuple of them, or None; for a constant its real tensor
    module: str = ""  # path of the innermost module in which it runs
    users: list[Node] = field(default_factory=list)
    sources: frozenset[str] = frozenset()  # names of the last nodes with weights before it
    key: int = 0  # equal for nodes of several captures that compute the same from the same weights
    from_input: bool = False
    from_parameter: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of its tensor; () if it has none."""
        return tuple(self.value.shape) if isinstance(self.value, Tensor) else ()

    def inputs(self) -> Iterator[Node]:
        """The nodes that it reads, in the order of its arguments."""
        yield from _nodes_in((self.args, tuple(self.kwargs.values())))

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument with this name in the operator's schema."""
        for index, argument in enumerate(self.call._schema.arguments):
            if argument.name == name:
                if index < len(self.args):
                    return self.args[index]
                return self.kwargs.get(name, argument.default_value)
        return default


@dataclass(eq=False)
class Graph:
    """A captured forward: its nodes in the order of computation, and its outputs."""

    nodes: list[Node]
    outputs: list[tuple[Node, str]]  # each with a phrase such as "the model's output"

    @classmethod
    def of(cls, nodes: list[Node], outputs: list[tuple[Node, str]]) -> Graph:
        """A graph of these nodes, whose users and keys are set."""
        for node in nodes:
            for other in dict.fromkeys(node.inputs()):
                other.users.append(node)
        for node, _ in outputs:
            node.users.append(Node("output", "op", "output"))
        _set_keys(nodes)
        return cls(nodes, outputs)


def operation(name: str, call: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any, module: str) -> Node:
    """A node for the call of an operator; the nodes that it reads do not list it as a user yet."""
    packet = getattr(call, "overloadpacket", None)
    op = packet.__name__ if packet is not None else getattr(call, "__name__", str(call))
    node = Node(name, "op", op, call, args, kwargs, value, module)
    if _uses_shape_only(call, op):
        return node
    read = list(node.inputs())
    node.from_input = any(other.from_input for other in read)
    node.from_parameter = any(other.from_parameter for other in read)
    if op in WEIGHT_OPS and any(other.from_parameter and not other.from_input for other in read):
        node.sources = frozenset((name,))
    else:
        node.sources = frozenset().union(*(other.sources for other in read))
    return node


def _set_keys(nodes: Iterable[Node]) -> None:
    """Set `Node.key`: a weight operation has that of its weights, another operation that of its arguments.

    Sizes are left out, since examples differ in them. Equal operations in one graph are numbered.
    """
    counts: Counter[Any] = Counter()
    for node in nodes:
        if node.kind != "op":
            content = str(node.value.tolist()) if node.kind == "constant" and _is_small(node.value) else ""
            described: Any = (node.kind, content or node.name)
        elif node.name in node.sources:
            described = (
                node.op,
                *(other.key for other in node.inputs() if other.from_parameter and not other.from_input),
            )
        else:
            arguments = list(node.inputs()) if node.op in _RESHAPING else (node.args, dict(node.kwargs))
            described = (node.op, str(substitute(arguments, lambda other: other.key, Node)))
        counts[described] += 1
        node.key = hash((described, counts[described]))


def _is_small(value: Any) -> bool:
    return isinstance(value, Tensor) and type(value) is Tensor and value.device.type != "meta" and value.numel() <= 4096


def _uses_shape_only(target: Any, op: str) -> bool:
    """True if an operation uses only the shape of its input; "bernoulli.p" draws the mask of an in-place dropout."""
    return op in CREATION_OPS or (op == "bernoulli" and getattr(target, "_overloadname", "") == "p")


def _nodes_in(arguments: Any) -> Iterator[Node]:
    if isinstance(arguments, Node):
        yield arguments
    elif isinstance(arguments, (list, tuple)):
        for argument in arguments:
            yield from _nodes_in(argument)
    elif isinstance(arguments, dict):
        yield from _nodes_in(tuple(arguments.values()))


def substitute(arguments: Any, change: Callable[[Any], Any], kind: type) -> Any:
    """Apply ``change`` to every item of type ``kind`` in nested lists, tuples and dicts of arguments."""
    if isinstance(arguments, kind):
        return change(arguments)
    if isinstance(arguments, (list, tuple)):
        changed = [substitute(argument, change, kind) for argument in arguments]
        return changed if isinstance(arguments, list) else tuple(changed)
    if isinstance(arguments, Mapping):
        return {key: substitute(argument, change, kind) for key, argument in arguments.items()}
    return arguments
