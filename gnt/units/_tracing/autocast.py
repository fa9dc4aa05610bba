"""Regions of a forward that run under autocast: torch.export puts each into a graph of its own."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx


def inline_regions(exported: torch.export.ExportedProgram) -> None:
    """Put the operations of each region where the region is called, with the modules that they run in.

    torch's own run_decompositions does so, too, but forgets the modules. The dtypes stay as they were recorded. Regions
    without gradients are left to it: nobody records features there, so that their consumers are refused.
    """
    if _inline(exported.graph_module):
        for node in exported.graph.find_nodes(
            op="call_function", target=torch.ops.aten._assert_tensor_metadata.default
        ):
            exported.graph.erase_node(node)  # of a dtype that autocast gave


def _inline(graph_module: fx.GraphModule) -> bool:
    """Whether there was a region."""
    graph, found = graph_module.graph, False
    for call in list(graph.nodes):
        if call.op == "call_function" and getattr(call.target, "__name__", None) == "wrap_with_autocast":
            found = True
            place = next(i for i, arg in enumerate(call.args) if isinstance(arg, fx.Node) and arg.op == "get_attr")
            holder = call.args[place]
            region = getattr(graph_module, holder.target)
            _inline(region)
            with graph.inserting_before(call):
                results = _copy(graph_module, region, call.args[place + 1 :])
            for pick in list(call.users):
                if pick.op == "call_function" and pick.target is operator.getitem:
                    pick.replace_all_uses_with(results[pick.args[1]])
                    graph.erase_node(pick)
            graph.erase_node(call)
            if not holder.users:
                graph.erase_node(holder)
    return found


def _copy(graph_module: fx.GraphModule, region: fx.GraphModule, operands: Any) -> Any:
    """Copy a region's operations to the place of insertion; what it returns."""
    graph = graph_module.graph
    copies: dict[fx.Node, fx.Node] = {}
    given = iter(operands)
    for node in region.graph.nodes:
        if node.op == "placeholder":
            copies[node] = next(given)
        elif node.op == "output":
            return fx.map_arg(node.args[0], lambda other: copies[other])
        elif node.op == "get_attr":
            name = f"region_{len(graph_module._modules)}"
            graph_module.add_module(name, getattr(region, str(node.target)))
            copies[node] = graph.get_attr(name)
        else:
            copies[node] = graph.node_copy(node, lambda other: copies[other])
    return ()
