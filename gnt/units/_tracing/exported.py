"""The graph of a forward that torch.export captures."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import InputKind, OutputKind

from gnt.units._tracing.autocast import inline_autocast_regions
from gnt.units._tracing.graph import IN_BUFFER, IN_INPUT, Graph, Node, operation, substitute
from gnt.units._tracing.outputs import OutputCollector

_KINDS = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
    InputKind.USER_INPUT: "input",
}
_OUTPUTS = {OutputKind.BUFFER_MUTATION: IN_BUFFER, OutputKind.USER_INPUT_MUTATION: IN_INPUT}


def export_forward(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], collector: OutputCollector
) -> Graph:
    """Export one forward; raises the exceptions of torch.export."""
    try:
        return _read(_export(model, tuple(args), dict(kwargs)), collector)
    except Exception as error:
        cause = _error_of_forward(error)
        if cause is None:
            raise
        raise cause from None


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
                    phrase = collector.phrase(returned)
                    returned += 1
                if raw_output in nodes:
                    outputs.append((nodes[raw_output], phrase))
            continue
        else:
            node = _operation(raw, nodes)
        nodes[raw] = node
    return Graph.of(list(nodes.values()), outputs)


def _operation(raw: Any, nodes: Mapping[Any, Node]) -> Node:
    return operation(
        raw.name,
        raw.target,
        _replace(tuple(raw.args), nodes),
        _replace(dict(raw.kwargs), nodes),
        raw.meta.get("val"),
        _module(raw.meta.get("nn_module_stack") or {}),
    )


def _module(stack: Mapping[str, tuple[str, Any]]) -> str:
    return list(stack.values())[-1][0] if stack else ""


def _replace(arguments: Any, nodes: Mapping[Any, Node]) -> Any:
    return substitute(arguments, lambda item: nodes.get(item, item), torch.fx.Node)
