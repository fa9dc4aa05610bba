"""Norms and other modules with parameters per unit: their entries are recorded as scales of the units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from gnt.units._activations import parse_activation
from gnt.units._tracing.graph import Node
from gnt.units._tracing.labels import Labels, expand, varies
from gnt.units._tracing.ops.refusal import describe_operation, refuse_mixing, refuse_operands, refuse_unknown
from gnt.units._tracing.state import PropagationState


def _batch_norm(state: PropagationState, node: Node) -> Any:
    """Normalizes each channel separately, over samples and positions."""
    labels = _channels(state, node, dim=1)
    return (labels, *[None] * (len(node.value) - 1)) if isinstance(node.value, (tuple, list)) else labels


def _channels(state: PropagationState, node: Node, *, dim: int, whole: bool = False) -> Labels:
    """A norm over channels; with ``whole``, its statistics cover several channels, so that all must be units."""
    labels = state.labels_of(node.args[0])
    if labels is None or varies(labels, [d for d in range(labels.ndim) if d != dim]):
        return refuse_mixing(state, node)
    return _record_row(state, node, labels, dim, 0, whole=whole)


def _record_row(
    state: PropagationState, node: Node, labels: Tensor, dim: int, weight_dim: int, *, whole: bool
) -> Labels:
    """Record the entries of a norm along ``dim`` of its input; returns the labels of its result.

    Args:
        state, node, labels: the state, the norm, and the labels of its input.
        dim: the dimension of the input along which the units vary.
        weight_dim: the same dimension of the norm's weight.
        whole: the statistics cover several units, which couples them; all values must then be units.
    """
    read = node.args[0]
    row = expand(labels, [n if d == dim else 1 for d, n in enumerate(read.shape)]).flatten()
    if whole and not bool((row > 0).all()):
        return refuse_operands(
            state, node, f"they are normalized together with other values by {describe_operation(node)}"
        )
    if whole:
        state.add_coupling(_norm_name(state, node), row)
    return labels if _scale(state, node, row, weight_dim) else None


def _norm_name(state: PropagationState, node: Node) -> str:
    """Path and type of the norm, or for a function its name and the module that calls it."""
    module = state.owners.module_at(node.module)
    if node.module and isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
        return f"{node.module} {type(module).__name__}"
    return describe_operation(node)


def _group_norm(state: PropagationState, node: Node) -> Any:
    groups = node.argument("num_groups", None) or node.argument("group")
    labels = _channels(state, node, dim=1, whole=groups < node.args[0].shape[1])
    return (labels, None, None) if isinstance(node.value, (tuple, list)) else labels


def _layer_norm(state: PropagationState, node: Node) -> Any:
    """Normalizes the last dimensions: within each unit, or over all units with one entry for each."""
    labels, shape = state.labels_of(node.args[0]), node.args[1]
    if labels is None:
        return refuse_unknown(state, node)
    first = labels.ndim - len(shape)
    varying = [d for d in range(first, labels.ndim) if labels.shape[d] > 1]
    varies_outside = varies(labels, range(first))
    if not varying and (varies_outside or labels.numel() > 1):
        result: Labels = labels
    elif varies_outside or len(varying) > 1:
        result = refuse_mixing(state, node)
    else:
        dim = varying[0] if varying else labels.ndim - 1
        result = _record_row(state, node, labels, dim, dim - first, whole=True)
    return (result, None, None) if isinstance(node.value, (tuple, list)) else result


def _prelu(state: PropagationState, node: Node) -> Labels:
    """An activation with one slope for each channel, or one for all."""
    read, weight = node.args[0], node.args[1]
    labels = state.labels_of(read)
    num_slopes = weight.value.numel() if isinstance(weight, Node) else 0
    if labels is None or not num_slopes:
        return refuse_unknown(state, node)
    state.units.set_activation(labels, parse_activation("prelu"))
    if num_slopes == 1:
        return labels
    return _channels(state, node, dim=min(1, labels.ndim - 1))


def _scale(state: PropagationState, node: Node, row: Tensor, dim: int) -> bool:
    """Record the entries of the norm's module that belong to units; False if they cannot be reinitialized."""
    entries = [arg for arg in node.args[1:] if isinstance(arg, Node)]
    while any(arg.op in ("view", "alias", "_to_copy") for arg in entries):
        entries = [arg.args[0] if arg.op in ("view", "alias", "_to_copy") else arg for arg in entries]
    if not entries:
        return True
    if any(arg.kind not in ("parameter", "buffer") for arg in entries):
        refuse_operands(
            state, node, f"they pass through {describe_operation(node)}, whose weight is not a plain parameter"
        )
        return False
    owners = {id(module): module for module in (state.owners.owner(arg)[0] for arg in entries)}
    keys = {state.owners.owner(arg)[1] for arg in entries}
    module = next(iter(owners.values()))
    name = state.owners.path(module)
    known = {"weight", "bias", "running_mean", "running_var"}
    if len(owners) > 1 or not keys <= known or ("prelu" in node.op and not isinstance(module, nn.PReLU)):
        refuse_operands(
            state,
            node,
            f"they pass through {', '.join(repr(arg.name) for arg in entries)}, which gnt cannot reinitialize",
        )
        return False
    for arg in entries:
        fault = state.owners.sharing(arg)
        if fault is not None:
            state.refuse(row, f"they pass through {name!r}, which {fault}")
            return True
    state.add_scale(name, module, dim, row, node.args[0])
    return True


NORMS: dict[str, Callable[[Any, Node], Any]] = {
    **dict.fromkeys(
        (
            "batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "native_batch_norm",
            "_native_batch_norm_legit_no_training", "instance_norm", "_batch_norm_with_update_functional",
            "_batch_norm_no_update", "cudnn_batch_norm",
        ),
        _batch_norm,
    ),
    **dict.fromkeys(("group_norm", "native_group_norm"), _group_norm),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), _layer_norm),
}  # fmt: skip
PRELU: dict[str, Callable[[Any, Node], Any]] = dict.fromkeys(("prelu", "_prelu_kernel"), _prelu)
