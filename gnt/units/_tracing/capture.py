"""A model's forward as a graph of torch operations: what torch.export makes of it, in a shape that is easy to read.

A `Node` is an operation, or something that enters: a parameter, a buffer, a constant, an input. Each knows the module
it runs in, and from which weights its value comes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind

from gnt.units._tracing.autocast import inline_regions
from gnt.units._tracing.outputs import Leaving

_KINDS = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
    InputKind.USER_INPUT: "input",
}
_OUTPUTS = {
    OutputKind.BUFFER_MUTATION: "kept in buffer {!r}",
    OutputKind.USER_INPUT_MUTATION: "written into the model's input",
}
# operations that make new features of what they read, by weights
WEIGHING = (
    "linear", "conv1d", "conv2d", "conv3d", "convolution", "addmm", "mm", "matmul", "bmm", "einsum", "bilinear",
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "embedding", "embedding_bag", "lstm", "gru",
    "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
)  # fmt: skip

# operations that look at the shape of what they read alone
SHAPED = (
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like", "new_zeros",
    "new_ones", "new_full", "new_empty",
)  # fmt: skip


@dataclass(eq=False)
class Node:
    """One value of a forward, or several that come as a tuple."""

    name: str
    kind: str  # "op", "parameter", "buffer", "constant", "input"
    op: str = ""  # "relu"; "getitem" picks from a tuple
    call: Any = None  # the operator itself
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    value: Any = None  # fake tensor, tuple of them, or None; the tensor itself of a constant
    module: str = ""  # path of the innermost module that it runs in
    users: list[Node] = field(default_factory=list)
    sources: frozenset[str] = frozenset()  # names of the nodes with weights that it directly comes from
    from_input: bool = False
    from_parameter: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its tensor."""
        return tuple(self.value.shape) if isinstance(self.value, Tensor) else ()

    def inputs(self) -> Iterator[Node]:
        """The nodes that it reads, in the order of its arguments."""
        yield from _nodes_in((self.args, tuple(self.kwargs.values())))

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by the name in the operator's schema."""
        for place, argument in enumerate(self.call._schema.arguments):
            if argument.name == name:
                if place < len(self.args):
                    return self.args[place]
                return self.kwargs.get(name, argument.default_value)
        return default


@dataclass(eq=False)
class Graph:
    """A traced forward: its nodes in the order of computation, and where values leave it."""

    nodes: list[Node]
    outputs: list[tuple[Node, str]]  # with the phrase that says how they leave


def capture(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, training: bool) -> Graph:
    """Trace one forward in training or evaluation mode, by torch.export; raises what it raises."""
    model.train(training)
    leaving = Leaving(model)
    hook = model.register_forward_hook(leaving)
    try:
        with torch.enable_grad(), _quiet():
            return _read(_export(model, tuple(args), dict(kwargs)), leaving)
    finally:
        hook.remove()


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    exported: torch.export.ExportedProgram = torch.export.export(model, args, kwargs, strict=False)
    inline_regions(exported)
    if all(_is_plain(raw) for raw in exported.graph.nodes):
        return exported
    try:
        exported = exported.run_decompositions({})
    except Exception:  # an inlined region, run in another precision than its own
        exported = torch.export.export(model, args, kwargs, strict=False).run_decompositions({})
    return exported


def _is_plain(raw: Any) -> bool:
    """Whether a node changes nothing in place, and no graph of its own hangs on it.

    A graph of such nodes is what run_decompositions would make of it, for which that takes half a second at least.
    """
    schema = getattr(raw.target, "_schema", None)
    return raw.op != "get_attr" and not (schema is not None and schema.is_mutable)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch.export prints, warns and logs about itself; what goes wrong it raises as well."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)


def _read(exported: torch.export.ExportedProgram, told: Leaving) -> Graph:
    entering = {spec.arg.name: spec for spec in exported.graph_signature.input_specs if hasattr(spec.arg, "name")}
    nodes: dict[Any, Node] = {}
    outputs: list[tuple[Node, str]] = []
    for raw in exported.graph.nodes:
        if raw.op == "placeholder":
            spec = entering.get(raw.name)
            kind = _KINDS.get(spec.kind, "input") if spec is not None else "input"
            node = Node(str(getattr(spec, "target", None) or raw.name), kind, value=raw.meta.get("val"))
            if kind == "constant":
                node.value = exported.constants.get(node.name, node.value)
            node.from_input, node.from_parameter = kind == "input", kind == "parameter"
        elif raw.op == "output":
            specs = exported.graph_signature.output_specs
            returned = 0
            for spec, leaving in zip(specs, raw.args[0], strict=True):
                phrase = _OUTPUTS.get(spec.kind, "the model's output").format(spec.target)
                if spec.kind == OutputKind.USER_OUTPUT:
                    returned += 1
                    phrase = phrase if returned <= told.returned else "kept in an attribute of the model"
                if leaving in nodes:
                    outputs.append((nodes[leaving], phrase))
                    nodes[leaving].users.append(Node(raw.name, "op", "output"))
            continue
        else:
            node = _operation(raw, nodes)
        nodes[raw] = node
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
    if _is_blind(raw.target, node.op):
        return node
    node.from_input = any(other.from_input for other in read)
    node.from_parameter = any(other.from_parameter for other in read)
    if node.op in WEIGHING and any(other.from_parameter and not other.from_input for other in read):
        node.sources = frozenset((node.name,))
    else:
        node.sources = frozenset().union(*(other.sources for other in read))
    return node


def _is_blind(target: Any, op: str) -> bool:
    """Whether an operation looks at the shape alone of what it reads: the mask of a dropout that works in place."""
    return op in SHAPED or (op == "bernoulli" and getattr(target, "_overloadname", "") == "p")


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
    """``arguments`` with everything of ``kind`` in them, however deep in lists, changed."""
    if isinstance(arguments, kind):
        return change(arguments)
    if isinstance(arguments, (list, tuple)):
        changed = [substitute(argument, change, kind) for argument in arguments]
        return changed if isinstance(arguments, list) else tuple(changed)
    if isinstance(arguments, Mapping):
        return {key: substitute(argument, change, kind) for key, argument in arguments.items()}
    return arguments
