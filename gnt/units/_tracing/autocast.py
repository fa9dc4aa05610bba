"""Autocast regions of a forward: torch.export puts each into a subgraph, which is inlined here."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx


def inline_autocast_regions(exported: torch.export.ExportedProgram) -> None:
    """Replace each call of an autocast region by the operations of the region, keeping their modules.

    run_decompositions of torch also does this but loses the modules. The recorded dtypes are kept. Regions without
    gradients are left to run_decompositions: no features are recorded there, so their consumers are refused.
    """
    if _inline(exported.graph_module):
        for node in exported.graph.find_nodes(
            op="call_function", target=torch.ops.aten._assert_tensor_metadata.default
        ):
            exported.graph.erase_node(node)  # asserts a dtype that autocast set


def _inline(graph_module: fx.GraphModule) -> bool:
    """Inline the regions of a graph, nested ones included; True if there was one."""
    graph, found = graph_module.graph, False
    for call in list(graph.nodes):
        if call.op == "call_function" and getattr(call.target, "__name__", None) == "wrap_with_autocast":
            found = True
            position = next(i for i, arg in enumerate(call.args) if isinstance(arg, fx.Node) and arg.op == "get_attr")
            holder = call.args[position]
            region = getattr(graph_module, holder.target)
            _inline(region)
            with graph.inserting_before(call):
                results = _copy(graph_module, region, call.args[position + 1 :])
            for pick in list(call.users):
                if pick.op == "call_function" and pick.target is operator.getitem:
                    pick.replace_all_uses_with(results[pick.args[1]])
                    graph.erase_node(pick)
            graph.erase_node(call)
            if not holder.users:
                graph.erase_node(holder)
    return found


def _copy(graph_module: fx.GraphModule, region: fx.GraphModule, operands: Any) -> Any:
    """Copy a region's operations to the insertion point; returns the copies of its outputs."""
    graph = graph_module.graph
    copies: dict[fx.Node, fx.Node] = {}
    remaining = iter(operands)
    for node in region.graph.nodes:
        if node.op == "placeholder":
            copies[node] = next(remaining)
        elif node.op == "output":
            return fx.map_arg(node.args[0], lambda other: copies[other])
        elif node.op == "get_attr":
            name = f"region_{len(graph_module._modules)}"
            graph_module.add_module(name, getattr(region, str(node.target)))
            copies[node] = graph.get_attr(name)
        else:
            copies[node] = graph.node_copy(node, lambda other: copies[other])
    return ()
