"""The forward of a model as a graph of torch operations, made by torch.export and stored in a simple form.

A `Node` is an operation, or a value that enters the graph: a parameter, buffer, constant or input. Each node knows the
module in which it runs and the weights from which its value is computed.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind

from gnt.units._tracing.autocast import inline_autocast_regions
from gnt.units._tracing.outputs import OutputCollector
from gnt.units._tracing.quiet import quiet

_KINDS = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
    InputKind.USER_INPUT: "input",
}
_OUTPUTS = {
    OutputKind.BUFFER_MUTATION: "stored in buffer {!r}",
    OutputKind.USER_INPUT_MUTATION: "written into the model's input",
}
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


def capture(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, training: bool) -> Graph:
    """Capture one forward in training or evaluation mode; raises the exceptions of torch.export."""
    model.train(training)
    collector = OutputCollector(model)
    hooks = [model.register_forward_pre_hook(collector.start), model.register_forward_hook(collector)]
    try:
        with torch.enable_grad(), quiet():
            return _read(_export(model, tuple(args), dict(kwargs)), collector)
    except Exception as error:
        cause = _error_of_forward(error)
        if cause is None:
            raise
        raise cause from None
    finally:
        for hook in hooks:
            hook.remove()


def _error_of_forward(error: Exception) -> Exception | None:
    """The error of the forward, if torch 2.6 has raised another one in its place.

    After a forward that failed it complains about the attributes that the forward had assigned before.
    """
    before = error.__context__
    frames = (frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__))
    return before if isinstance(before, Exception) and "_detect_attribute_assignment" in frames else None


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    exported: torch.export.ExportedProgram = torch.export.export(model, args, kwargs, strict=False)
    inline_autocast_regions(exported)
    if all(_is_plain(raw) for raw in exported.graph.nodes):
        return exported
    try:
        exported = exported.run_decompositions({})
    except Exception:  # an inlined autocast region fails if it runs in another precision
        exported = torch.export.export(model, args, kwargs, strict=False).run_decompositions({})
    return exported


def _is_plain(raw: Any) -> bool:
    """True if a node changes nothing in place and has no subgraph.

    On a graph of such nodes run_decompositions has no effect, and it takes at least half a second.
    """
    schema = getattr(raw.target, "_schema", None)
    return raw.op != "get_attr" and not (schema is not None and schema.is_mutable)


def _read(exported: torch.export.ExportedProgram, collector: OutputCollector) -> Graph:
    input_specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs if hasattr(spec.arg, "name")}
    nodes: dict[Any, Node] = {}
    outputs: list[tuple[Node, str]] = []
    for raw in exported.graph.nodes:
        if raw.op == "placeholder":
            spec = input_specs.get(raw.name)
            kind = _KINDS.get(spec.kind, "input") if spec is not None else "input"
            node = Node(str(getattr(spec, "target", None) or raw.name), kind, value=raw.meta.get("val"))
            if kind == "constant":
                node.value = exported.constants.get(node.name, node.value)
            node.from_input, node.from_parameter = kind == "input", kind == "parameter"
        elif raw.op == "output":
            specs = exported.graph_signature.output_specs
            returned = 0
            for spec, raw_output in zip(specs, raw.args[0], strict=True):
                phrase = _OUTPUTS.get(spec.kind, "the model's output").format(spec.target)
                if spec.kind == OutputKind.USER_OUTPUT:
                    returned += 1
                    phrase = phrase if returned <= collector.num_returned else "stored in an attribute of the model"
                if raw_output in nodes:
                    outputs.append((nodes[raw_output], phrase))
                    nodes[raw_output].users.append(Node(raw.name, "op", "output"))
            continue
        else:
            node = _operation(raw, nodes)
        nodes[raw] = node
    _set_keys(nodes.values())
    return Graph(list(nodes.values()), outputs)


def _operation(raw: Any, nodes: Mapping[Any, Node]) -> Node:
    target = raw.target
    packet = getattr(target, "overloadpacket", None)
    node = Node(
        name=raw.name,
        kind="op",
        op=packet.__name__ if packet is not None else getattr(target, "__name__", str(target)),
        call=target,
        args=_replace(tuple(raw.args), nodes),
        kwargs=_replace(dict(raw.kwargs), nodes),
        value=raw.meta.get("val"),
        module=_module(raw.meta.get("nn_module_stack") or {}),
    )
    read = list(dict.fromkeys(node.inputs()))
    for other in read:
        other.users.append(node)
    if _uses_shape_only(raw.target, node.op):
        return node
    node.from_input = any(other.from_input for other in read)
    node.from_parameter = any(other.from_parameter for other in read)
    if node.op in WEIGHT_OPS and any(other.from_parameter and not other.from_input for other in read):
        node.sources = frozenset((node.name,))
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


def _module(stack: Mapping[str, tuple[str, Any]]) -> str:
    return list(stack.values())[-1][0] if stack else ""


def _nodes_in(arguments: Any) -> Iterator[Node]:
    if isinstance(arguments, Node):
        yield arguments
    elif isinstance(arguments, (list, tuple)):
        for argument in arguments:
            yield from _nodes_in(argument)
    elif isinstance(arguments, dict):
        yield from _nodes_in(tuple(arguments.values()))


def _replace(arguments: Any, nodes: Mapping[Any, Node]) -> Any:
    return substitute(arguments, lambda item: nodes.get(item, item), torch.fx.Node)


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
