"""Operations that move elements and change none: they are run on the labels themselves.

So every map of indices comes out by itself: a flatten gives blocks, a concatenation offsets, a shuffle a permutation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from gnt.units._tracing.capture import Node, substitute
from gnt.units._tracing.labels import UNIT, Labels, compact, full
from gnt.units._tracing.ops.refusal import unread

if TYPE_CHECKING:
    from gnt.units._tracing.propagation import Flow

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
_COPYING = ("slice_scatter", "select_scatter", "pixel_shuffle", "pixel_unshuffle")
_OF_SEVERAL = (
    "cat", "concat", "stack", "hstack", "vstack", "expand_as", "view_as", "reshape_as", "slice_scatter",
    "select_scatter",
)  # fmt: skip
_GATHERING = ("cat", "concat", "stack", "hstack", "vstack")


def move(flow: Flow, node: Node) -> Any:
    """Run a movement on labels."""
    if any(isinstance(item, torch.dtype) for item in node.args):
        return unread(flow, node)  # a view of the same bits as other numbers
    if node.op not in _OF_SEVERAL and any(other is not node.args[0] for other in node.inputs()):
        return unread(flow, node)  # moved by an index that is a tensor

    def labels_of(other: Node) -> Any:
        labels = full(flow.of(other), other.shape)
        return labels.contiguous() if node.op in _COPYING else labels

    args = substitute(node.args, labels_of, Node)
    if node.op in _GATHERING:
        args = (_gather_args(flow, node), *args[1:])
    if node.op in _RESHAPES:
        result = args[0].reshape(args[1])
    else:
        kwargs = {k: v for k, v in node.kwargs.items() if k in ("dim", "dims", "start", "end", "step", "output_size")}
        result = node.call(*args, **kwargs)
    return tuple(compact(part) for part in result) if isinstance(result, (tuple, list)) else compact(result)


def _gather_args(flow: Flow, node: Node) -> list[Tensor]:
    placed = _places(flow, node)
    return [full(placed.get(place, flow.of(other)), other.shape) for place, other in enumerate(node.args[0])]


def _places(flow: Flow, node: Node) -> dict[int, Tensor]:
    """Where one unit comes in several of the values that are put together, each of them is another place of it."""
    seen: set[int] = set()
    placed: dict[int, Tensor] = {}
    for place, other in enumerate(node.args[0]):
        labels = flow.of(other)
        if labels is None:
            continue
        units = set(flow.units.root[torch.unique(labels & UNIT)].tolist()) - {0}
        if units & seen:
            flow.places += 1
            placed[place] = torch.where(labels > 0, (labels & UNIT) | flow.places << 32, labels)
        seen |= units
    return placed


def pad(flow: Flow, node: Node) -> Labels:
    """Padding: along dimensions in which labels do not vary nothing changes, elsewhere nobody's zeros come in."""
    labels, amounts = flow.of(node.args[0]), list(node.args[1])
    if labels is None:
        return None
    ndim, size = labels.ndim, node.args[0].shape
    for step in range(len(amounts) // 2):
        dim = ndim - 1 - step
        if labels.shape[dim] == 1 and labels.numel() > 1:  # of one unit alone, any dimension may be the units' own
            amounts[2 * step : 2 * step + 2] = [0, 0]
            size = tuple(1 if d == dim else n for d, n in enumerate(size))
    constant = node.op == "constant_pad_nd" or (node.op == "pad" and node.argument("mode") in (None, "constant"))
    if any(amounts) and not constant:
        return unread(flow, node)
    return compact(functional.pad(labels, amounts)) if any(amounts) else labels
