"""Selection of the rule by which an operation propagates labels, with the rules of the simpler operations.

Rules are found by the name of the operator. The units of an operation without a rule are refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gnt.units._tracing.graph import CREATION_OPS, Node
from gnt.units._tracing.labels import Labels, compact, expand, varies
from gnt.units._tracing.ops.activations import record_step
from gnt.units._tracing.ops.movement import MOVES, move, pad
from gnt.units._tracing.ops.norms import NORMS, PRELU
from gnt.units._tracing.ops.pointwise import POINTWISE, glu, pointwise
from gnt.units._tracing.ops.refusal import describe_operation, refuse_mixing, refuse_operands, refuse_unknown
from gnt.units._tracing.ops.statistics import reduce_over_units
from gnt.units._tracing.ops.weighted_branches import softmax_of_branches, sum_over_branches
from gnt.units._tracing.state import PropagationState

ACTIVATION_PRODUCTS = (
    "bmm", "baddbmm", "matmul", "mm", "addmm", "einsum", "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention", "dot", "mv", "linalg_matmul", "flex_attention", "tensordot", "outer",
)  # fmt: skip
# operations that use or check only the shape of their input
SHAPE_OPS = (*CREATION_OPS, "_assert_tensor_metadata", "sym_size", "size", "numel", "sym_numel", "dim")
_UNCHANGED = (
    "alias", "clone", "contiguous", "detach", "_to_copy", "to", "type_as", "lift_fresh_copy", "lift_fresh", "lift",
    "_conj", "native_dropout", "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "resolve_conj",
)  # fmt: skip
_REDUCTIONS = (
    "mean", "sum", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean", "logsumexp", "norm",
    "linalg_vector_norm", "argmax", "argmin", "any", "all", "median", "nanmean", "nansum", "aminmax",
)  # fmt: skip
_ALONG_DIM = (
    "softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp",
    "cummax", "cummin", "sort", "argsort",
)  # fmt: skip
# operations on images; they mix values along as many last dimensions as the digit in their names
_SPATIAL = (
    "avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool", "_adaptive_avg_pool", "fractional_max_pool",
    "upsample_", "_upsample_", "grid_sampler_",
)  # fmt: skip
_PADS = ("pad", "constant_pad_nd", "reflection_pad", "replication_pad")


def propagate_labels(state: PropagationState, node: Node) -> Any:
    """Labels of the result of an operation without weights: labels, None, or a tuple of them."""
    if node.op == "getitem":
        parts = state.labels.get(node.args[0])
        return parts[node.args[1]] if isinstance(parts, tuple) else None
    read = [other for other in node.inputs() if state.labels_of(other) is not None]
    if not read or node.op in SHAPE_OPS:
        return None
    if not isinstance(node.call, torch._ops.OpOverload):
        return refuse_unknown(state, node)
    rule = _rule(node.op)
    if rule is None and torch.Tag.pointwise in node.call.tags:
        rule = pointwise
    return (rule or refuse_unknown)(state, node)


def _rule(name: str) -> Callable[[PropagationState, Node], Any] | None:
    if name in _RULES:
        return _RULES[name]
    if name.startswith(_SPATIAL):
        return _spatial
    return pad if name.startswith(_PADS) else None


def _product(state: PropagationState, node: Node) -> Labels:
    return refuse_operands(
        state,
        node,
        f"attention heads' inner units (or another product of activations), read by {describe_operation(node)}",
    )


def _transposed(state: PropagationState, node: Node) -> Labels:
    return refuse_operands(
        state,
        node,
        f"they are read by {describe_operation(node)}, a transposed convolution, which gnt cannot index by unit",
    )


def _keep(state: PropagationState, node: Node) -> Any:
    labels = state.labels_of(node.args[0])
    others = [other for other in node.inputs() if other is not node.args[0]]
    if node.op != "type_as" and any(state.labels_of(other) is not None for other in others):
        return refuse_unknown(state, node)
    record_step(state, node, labels)
    return (labels, labels) if isinstance(node.value, (tuple, list)) else labels


def _spatial(state: PropagationState, node: Node) -> Any:
    labels = state.labels_of(node.args[0])
    dims = int(next(letter for letter in node.op if letter.isdigit()))
    if labels is None or varies(labels, range(labels.ndim - dims, labels.ndim)):
        return refuse_mixing(state, node)
    for other in list(node.inputs())[1:]:
        if state.labels_of(other) is not None:
            return refuse_mixing(state, node)
    return (labels, labels) if isinstance(node.value, (tuple, list)) else labels


def _reduce(state: PropagationState, node: Node) -> Any:
    labels, dims = state.labels_of(node.args[0]), node.argument("dim")
    if labels is None or len(list(node.inputs())) > 1:
        return refuse_unknown(state, node)  # max(a, b) of two values
    dims = range(labels.ndim) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    dims = sorted({dim % labels.ndim for dim in dims})
    if varies(labels, dims):
        along = [dim for dim in dims if labels.shape[dim] > 1]
        if along == dims and len(dims) == 1 and labels.numel() > labels.shape[dims[0]]:
            return sum_over_branches(state, node, labels, dims[0])
        return reduce_over_units(state, node, labels, dims)
    outs = node.value if isinstance(node.value, (tuple, list)) else (node.value,)
    if outs[0].ndim != labels.ndim:
        labels = labels.reshape([n for dim, n in enumerate(labels.shape) if dim not in dims])
    return (labels,) * len(outs) if isinstance(node.value, (tuple, list)) else labels


def _along_dim(state: PropagationState, node: Node) -> Any:
    labels, dim = state.labels_of(node.args[0]), node.argument("dim")
    if labels is None or not isinstance(dim, int):
        return refuse_mixing(state, node)
    if varies(labels, [dim % labels.ndim]):
        return softmax_of_branches(state, node, labels, dim % labels.ndim)
    return (labels, labels) if isinstance(node.value, (tuple, list)) else labels


def _constant(node: Node) -> Node:
    """The constant in the code of which a node is a copy, or the node itself."""
    origin = node
    while origin.kind == "op" and origin.op in _UNCHANGED and not origin.kwargs and len(origin.args) == 1:
        origin = origin.args[0]
    return origin if origin.kind == "constant" else node


def _index(state: PropagationState, node: Node) -> Any:
    """Indexing along dimensions in which the units do not vary, or by an index that is a constant in the code."""
    read, (*_, index) = node.args[0], node.args
    labels = state.labels_of(read)
    is_list = isinstance(index, (list, tuple))
    indices: list[Any] = list(index) if isinstance(index, (list, tuple)) else [index]
    if labels is None or any(state.labels_of(other) is not None for other in indices):
        return refuse_unknown(state, node)
    dims = [d for d, i in enumerate(indices) if i is not None] if is_list else [node.args[1] % labels.ndim]
    indices = [i if i is None else _constant(i) for i in indices]
    constant = all(i is None or i.kind == "constant" for i in indices)
    if varies(labels, dims) and not constant:
        return refuse_operands(
            state,
            node,
            f"data-dependent routing: {node.op!r} selects them by an index that is computed or stored in a buffer",
        )
    if any(i is not None and i.value.dtype == torch.bool for i in indices) and not constant:
        return refuse_unknown(state, node)
    known = [
        i if i is None else i.value if constant else torch.zeros(i.shape, dtype=torch.int64, device="cpu")
        for i in indices
    ]
    known = [i if i is None else i.cpu() for i in known]
    result: Tensor = node.call(expand(labels, read.shape), *node.args[1:-1], known if is_list else known[0])
    return compact(result)


_RULES: dict[str, Callable[[Any, Node], Any]] = {
    **dict.fromkeys(ACTIVATION_PRODUCTS, _product),
    **dict.fromkeys(_UNCHANGED, _keep),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_ALONG_DIM, _along_dim),
    **dict.fromkeys(("index", "index_select", "gather"), _index),
    **dict.fromkeys(MOVES, move),
    **POINTWISE,
    **NORMS,
    **PRELU,
    "glu": glu,
}
