"""Operations that move elements without changing them; they are run on the label tensors themselves.

So every index map follows without further code: a flatten gives blocks, a concatenation offsets, a shuffle a
permutation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gnt.units._tracing.graph import Node, substitute
from gnt.units._tracing.labels import Labels, compact, distinct_units, expand, with_occurrence
from gnt.units._tracing.ops.refusal import refuse_unknown
from gnt.units._tracing.state import PropagationState

MOVES = (
    "view", "reshape", "_unsafe_view", "_reshape_alias", "view_copy", "permute", "permute_copy", "transpose", "t",
    "numpy_T", "movedim", "moveaxis", "swapaxes", "swapdims", "squeeze", "unsqueeze", "squeeze_copy", "unsqueeze_copy",
    "expand", "expand_as", "broadcast_to", "flatten", "unflatten", "cat", "concat", "stack", "hstack", "vstack",
    "slice", "slice_copy", "select", "select_copy", "narrow", "split", "split_with_sizes", "split_copy",
    "split_with_sizes_copy", "chunk", "tensor_split", "unbind", "repeat", "tile", "repeat_interleave", "flip", "roll",
    "rot90", "diagonal", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle",
    "slice_scatter", "select_scatter", "tril", "triu", "view_as", "reshape_as", "expand_copy",
)  # fmt: skip
_RESHAPES = ("view", "_unsafe_view", "_reshape_alias", "view_copy")
_NEED_CONTIGUOUS = ("slice_scatter", "select_scatter", "pixel_shuffle", "pixel_unshuffle")
_SEVERAL_OPERANDS = (
    "cat", "concat", "stack", "hstack", "vstack", "expand_as", "view_as", "reshape_as", "slice_scatter",
    "select_scatter",
)  # fmt: skip
_CONCATENATIONS = ("cat", "concat", "stack", "hstack", "vstack")


def move(state: PropagationState, node: Node) -> Any:
    """Run a movement on the labels of its operands."""
    if any(isinstance(item, torch.dtype) for item in node.args):
        return refuse_unknown(state, node)  # a view of the same bits in another dtype
    if node.op not in _SEVERAL_OPERANDS and any(other is not node.args[0] for other in node.inputs()):
        return refuse_unknown(state, node)  # the index is a tensor

    def expanded_labels(operand: Node) -> Any:
        labels = expand(state.labels_of(operand), operand.shape)
        return labels.contiguous() if node.op in _NEED_CONTIGUOUS else labels

    args = substitute(node.args, expanded_labels, Node)
    if node.op in _CONCATENATIONS:
        args = (_distinguish_occurrences(state, node), *args[1:])
    if node.op in _RESHAPES:
        result = args[0].reshape(args[1])
    else:
        kwargs = {k: v for k, v in node.kwargs.items() if k in ("dim", "dims", "start", "end", "step", "output_size")}
        result = node.call(*args, **kwargs)
    return tuple(compact(part) for part in result) if isinstance(result, (tuple, list)) else compact(result)


def _distinguish_occurrences(state: PropagationState, node: Node) -> list[Tensor]:
    """Labels of concatenated values; a unit that several of the values contain gets an occurrence number for each."""
    seen: set[int] = set()
    result = []
    for operand in node.args[0]:
        labels = state.labels_of(operand)
        if labels is not None:
            units = set(state.units.root[distinct_units(labels)].tolist()) - {0}
            if units & seen:
                labels = with_occurrence(labels, state.new_occurrence())
            seen |= units
        result.append(expand(labels, operand.shape))
    return result


def pad(state: PropagationState, node: Node) -> Labels:
    """Padding: unit labels are padded with 0, but only along dimensions in which they vary."""
    labels, amounts = state.labels_of(node.args[0]), list(node.args[1])
    if labels is None:
        return None
    ndim, size = labels.ndim, node.args[0].shape
    for step in range(len(amounts) // 2):
        dim = ndim - 1 - step
        if labels.shape[dim] == 1 and labels.numel() > 1:  # with a single unit, any dimension may be the units'
            amounts[2 * step : 2 * step + 2] = [0, 0]
            size = tuple(1 if d == dim else n for d, n in enumerate(size))
    constant = node.op == "constant_pad_nd" or (node.op == "pad" and node.argument("mode") in (None, "constant"))
    if any(amounts) and not constant:
        return refuse_unknown(state, node)
    return compact(functional.pad(labels, amounts)) if any(amounts) else labels
