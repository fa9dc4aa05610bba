"""Weights of several layers that are stacked in one parameter, as experts of shape (experts, inputs, outputs)."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from gnt.units._tracing.graph import Node
from gnt.units._tracing.weight_ops import CASTS, TRANSPOSES

_SLICES = (*CASTS, *TRANSPOSES, "select", "getitem", "unbind", "squeeze", "slice", "split", "chunk")


def stacked_weights(parameter: Node, op: str) -> str:
    """A phrase for a parameter that holds the weights of several layers, which an operation reads together."""
    routing = " (data-dependent routing)" if op.startswith("index") or "grouped_mm" in op else ""
    return (
        f"stacked experts: one parameter of shape {parameter.shape} holds the weights of all of them, read by {op!r}"
        f"{routing}. "
        "No layer runs an expert alone, so its units cannot be recorded. Experts that are modules with layers of their "
        "own can be listed: gnt.GnT([expert.up, torch.relu, expert.down])"
    )


def stack_of_slice(weight: Node) -> tuple[Node, str] | None:
    """The parameter of three or more dimensions of which a weight is a slice, and a name for the slice; or None."""
    node, index = weight, ""
    while node.op in _SLICES and isinstance(node.args[0], Node):
        if node.op in ("select", "getitem"):
            index = f"[{node.args[-1]}]"
        node = node.args[0]
    is_stack = node.kind == "parameter" and len(node.shape) > max(2, len(weight.shape))
    return (node, f"{node.name}{index}") if is_stack else None


def experts_hint(model: nn.Module, error: Exception) -> str:
    """How torch.export can follow experts of transformers that run in a loop which depends on the data; or ""."""
    if "data-dependent" not in str(error) or not hasattr(model, "set_experts_implementation"):
        return ""
    for path, module in model.named_modules():
        stacked = [key for key, value in module._parameters.items() if value is not None and value.ndim == 3]
        if stacked and not isinstance(module, _ConvNd):
            return (
                f"\nThe experts in {path!r} are stacked in one parameter ({', '.join(stacked)}) and run in a loop that "
                "depends on the data. It can be traced with model.set_experts_implementation('grouped_mm'): the units "
                "of other layers are then found, and those of the experts are refused."
            )
    return ""
