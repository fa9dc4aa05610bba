"""Norms and other modules with an entry for each unit: their entries are a unit's own, and are noted as its scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gnt.units._tracing.capture import Node
from gnt.units._tracing.labels import Labels, full, varies
from gnt.units._tracing.ops.refusal import end, mixed, named, unread

if TYPE_CHECKING:
    from gnt.units._tracing.propagation import Flow


def _batch_norm(flow: Flow, node: Node) -> Any:
    """Each channel by itself, over samples and sites."""
    labels = _channels(flow, node, dim=1)
    return (labels, *[None] * (len(node.value) - 1)) if isinstance(node.value, (tuple, list)) else labels


def _channels(flow: Flow, node: Node, *, dim: int, whole: bool = False) -> Labels:
    """A norm of channels; ``whole``: it takes their statistics together, so that all of them must be units."""
    read = node.args[0]
    labels = flow.of(read)
    if labels is None or varies(labels, [d for d in range(labels.ndim) if d != dim]):
        return mixed(flow, node)
    row = full(labels, [n if d == dim else 1 for d, n in enumerate(read.shape)]).flatten()
    if whole and not bool((row > 0).all()):
        return end(flow, node, f"they are normalised together with other values by {named(node)}")
    return labels if _scale(flow, node, row, 0) else None


def _group_norm(flow: Flow, node: Node) -> Any:
    groups = node.argument("num_groups", None) or node.argument("group")
    labels = _channels(flow, node, dim=1, whole=groups < node.args[0].shape[1])
    return (labels, None, None) if isinstance(node.value, (tuple, list)) else labels


def _layer_norm(flow: Flow, node: Node) -> Any:
    """Over the last dimensions: within each unit, or over units, each with an entry of its own."""
    read, shape = node.args[0], node.args[1]
    labels = flow.of(read)
    if labels is None:
        return unread(flow, node)
    first = labels.ndim - len(shape)
    inside = [d for d in range(first, labels.ndim) if labels.shape[d] > 1]
    outside = varies(labels, range(first))
    if not inside and (outside or labels.numel() > 1):
        result: Labels = labels
    elif outside or len(inside) > 1:
        result = mixed(flow, node)
    else:
        dim = inside[0] if inside else labels.ndim - 1
        row = full(labels, [n if d == dim else 1 for d, n in enumerate(read.shape)]).flatten()
        if not bool((row > 0).all()):
            result = end(flow, node, f"they are normalised together with other values by {named(node)}")
        else:
            result = labels if _scale(flow, node, row, dim - first) else None
    return (result, None, None) if isinstance(node.value, (tuple, list)) else result


def _prelu(flow: Flow, node: Node) -> Labels:
    """An activation with a slope for each channel, or one for all."""
    read, weight = node.args[0], node.args[1]
    labels = flow.of(read)
    slopes = weight.value.numel() if isinstance(weight, Node) else 0
    if labels is None or not slopes:
        return unread(flow, node)
    flow.units.note(labels, ("prelu", 0.25))
    if slopes == 1:
        return labels
    return _channels(flow, node, dim=min(1, labels.ndim - 1))


def _scale(flow: Flow, node: Node, row: Tensor, dim: int) -> bool:
    """Note the entries of the norm's module that belong to units; False where they cannot be made anew."""
    entries = [arg for arg in node.args[1:] if isinstance(arg, Node)]
    while any(arg.op in ("view", "alias", "_to_copy") for arg in entries):
        entries = [arg.args[0] if arg.op in ("view", "alias", "_to_copy") else arg for arg in entries]
    if not entries:
        return True
    if any(arg.kind not in ("parameter", "buffer") for arg in entries):
        end(flow, node, f"they pass {named(node)}, whose weight is not a plain parameter")
        return False
    owners = {id(module): module for module in (flow.owners.owner(arg)[0] for arg in entries)}
    keys = {flow.owners.owner(arg)[1] for arg in entries}
    module = next(iter(owners.values()))
    name = flow.owners.path(module)
    known = {"weight", "bias", "running_mean", "running_var"}
    if len(owners) > 1 or not keys <= known or ("prelu" in node.op and not isinstance(module, nn.PReLU)):
        end(flow, node, f"they pass {', '.join(repr(arg.name) for arg in entries)}, which gnt cannot make anew")
        return False
    for arg in entries:
        fault = flow.owners.sharing(arg)
        if fault is not None:
            flow.units.refuse(row, f"they pass {name!r}, which {fault}")
            return True
    flow.note_scale(name, module, dim, row, node.args[0])
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
