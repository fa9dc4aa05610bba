"""What each torch operation does to the units in its arguments: it passes them on, joins them, or loses them.

Tables by the operators' names. An operation in no table refuses the units that it reads: never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gnt.units._tracing.capture import SHAPED, Node
from gnt.units._tracing.labels import Labels, compact, full, varies
from gnt.units._tracing.ops.movement import MOVES, move, pad
from gnt.units._tracing.ops.norms import NORMS, PRELU
from gnt.units._tracing.ops.pointwise import POINTWISE, glu, pointwise
from gnt.units._tracing.ops.refusal import end, mixed, named, unread

if TYPE_CHECKING:
    from gnt.units._tracing.propagation import Flow

PRODUCTS = (
    "bmm", "baddbmm", "matmul", "mm", "addmm", "einsum", "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention", "dot", "mv", "linalg_matmul", "flex_attention", "tensordot", "outer",
)  # fmt: skip
# they look at the shape of what they read alone, or check it
BLIND = (*SHAPED, "_assert_tensor_metadata", "sym_size", "size", "numel", "sym_numel", "dim")
_SAME = (
    "alias", "clone", "contiguous", "detach", "_to_copy", "to", "type_as", "lift_fresh_copy", "lift_fresh", "lift",
    "_conj", "native_dropout", "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "resolve_conj",
)  # fmt: skip
_REDUCE = (
    "mean", "sum", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean", "logsumexp", "norm",
    "linalg_vector_norm", "argmax", "argmin", "any", "all", "median", "nanmean", "nansum", "aminmax",
)  # fmt: skip
_ALONG = (
    "softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp",
    "cummax", "cummin", "sort", "argsort",
)  # fmt: skip
# of images: what they mix lies in the last dimensions, as many as the digit in their names
_SPATIAL = (
    "avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool", "_adaptive_avg_pool", "fractional_max_pool",
    "upsample_", "_upsample_", "grid_sampler_",
)  # fmt: skip
_PADS = ("pad", "constant_pad_nd", "reflection_pad", "replication_pad")


def pass_on(flow: Flow, node: Node) -> Any:
    """Labels of what ``node`` computes: labels, None, or a tuple of them."""
    if node.op == "getitem":
        parts = flow.labels.get(node.args[0])
        return parts[node.args[1]] if isinstance(parts, tuple) else None
    read = [other for other in node.inputs() if flow.of(other) is not None]
    if not read or node.op in BLIND:
        return None
    if not isinstance(node.call, torch._ops.OpOverload):
        return unread(flow, node)
    handler = _handler(node.op)
    if handler is None and torch.Tag.pointwise in node.call.tags:
        handler = pointwise
    return (handler or unread)(flow, node)


def _handler(name: str) -> Callable[[Flow, Node], Any] | None:
    if name in _TABLE:
        return _TABLE[name]
    if name.startswith(_SPATIAL):
        return _spatial
    return pad if name.startswith(_PADS) else None


def _product(flow: Flow, node: Node) -> Labels:
    return end(flow, node, f"attention heads' inner units (or another product of activations), read by {named(node)}")


def _transposed(flow: Flow, node: Node) -> Labels:
    return end(
        flow, node, f"they are read by {named(node)}, a transposed convolution, whose weights gnt cannot address"
    )


def _same(flow: Flow, node: Node) -> Any:
    labels = flow.of(node.args[0])
    if any(flow.of(other) is not None for other in node.inputs() if other is not node.args[0]):
        return unread(flow, node)
    return (labels, labels) if isinstance(node.value, (tuple, list)) else labels


def _spatial(flow: Flow, node: Node) -> Any:
    labels = flow.of(node.args[0])
    dims = int(next(letter for letter in node.op if letter.isdigit()))
    if labels is None or varies(labels, range(labels.ndim - dims, labels.ndim)):
        return mixed(flow, node)
    for other in list(node.inputs())[1:]:
        if flow.of(other) is not None:
            return mixed(flow, node)
    return (labels, labels) if isinstance(node.value, (tuple, list)) else labels


def _reduce(flow: Flow, node: Node) -> Any:
    labels, dims = flow.of(node.args[0]), node.argument("dim")
    if labels is None or len(list(node.inputs())) > 1:
        return unread(flow, node)  # max(a, b), of two values
    dims = range(labels.ndim) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    dims = sorted({dim % labels.ndim for dim in dims})
    if varies(labels, dims):
        return mixed(flow, node)
    outs = node.value if isinstance(node.value, (tuple, list)) else (node.value,)
    if outs[0].ndim != labels.ndim:
        labels = labels.reshape([n for dim, n in enumerate(labels.shape) if dim not in dims])
    return (labels,) * len(outs) if isinstance(node.value, (tuple, list)) else labels


def _along(flow: Flow, node: Node) -> Any:
    labels, dim = flow.of(node.args[0]), node.argument("dim")
    if labels is None or not isinstance(dim, int) or varies(labels, [dim % labels.ndim]):
        return mixed(flow, node)
    return (labels, labels) if isinstance(node.value, (tuple, list)) else labels


def _constant(node: Node) -> Node:
    """A constant in the code behind the copies that are made of it, or the node itself."""
    behind = node
    while behind.kind == "op" and behind.op in _SAME and not behind.kwargs and len(behind.args) == 1:
        behind = behind.args[0]
    return behind if behind.kind == "constant" else node


def _index(flow: Flow, node: Node) -> Any:
    """Picking along dimensions in which the units do not differ, or by an index that is a constant in the code."""
    read, (*_, index) = node.args[0], node.args
    labels = flow.of(read)
    several = isinstance(index, (list, tuple))
    indices: list[Any] = list(index) if isinstance(index, (list, tuple)) else [index]
    if labels is None or any(flow.of(other) is not None for other in indices):
        return unread(flow, node)
    dims = [d for d, i in enumerate(indices) if i is not None] if several else [node.args[1] % labels.ndim]
    indices = [i if i is None else _constant(i) for i in indices]
    constant = all(i is None or i.kind == "constant" for i in indices)
    if varies(labels, dims) and not constant:
        return end(
            flow,
            node,
            f"data-dependent routing: {node.op!r} picks them by an index that is computed, or kept in a buffer",
        )
    if any(i is not None and i.value.dtype == torch.bool for i in indices) and not constant:
        return unread(flow, node)
    known = [i if i is None else i.value if constant else torch.zeros(i.shape, dtype=torch.int64) for i in indices]
    known = [i if i is None else i.cpu() for i in known]
    result: Tensor = node.call(full(labels, read.shape), *node.args[1:-1], known if several else known[0])
    return compact(result)


_TABLE: dict[str, Callable[[Any, Node], Any]] = {
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(_REDUCE, _reduce),
    **dict.fromkeys(_ALONG, _along),
    **dict.fromkeys(("index", "index_select", "gather"), _index),
    **dict.fromkeys(MOVES, move),
    **POINTWISE,
    **NORMS,
    **PRELU,
    "glu": glu,
}
