"""Stacking of layers: one layer that computes all members' copies of a layer. Defines which types can be stacked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gnt.learners.ensemble.layers import (
    FlattenRows,
    MemberDropout,
    MemberInputNorm,
    MemberLinear,
    MemberNorm,
    SwapBatch,
    ToChannels,
    ToRows,
)
from gnt.nn import InputNorm
from gnt.units import has_torch_forward, identify_activation

Layer = Callable[..., Any]  # a module or a plain function
Layout = Literal["rows", "columns", "channels"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d,
    nn.LPPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Upsample, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
    nn.ZeroPad2d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d,
    nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d,
)  # fmt: skip
_ALLOWED = (
    "Linear, Conv1d/2d/3d, BatchNorm, InstanceNorm, GroupNorm, LayerNorm, RMSNorm, InputNorm, Dropout, Flatten, "
    "poolings (not FractionalMaxPool, which is random) and paddings, and activations without parameters"
)


class LayerStack:
    """Stacks the members' layers in order, and changes the layout of features between them where necessary.

    Attributes:
        layers: the stacked layers so far, each with the first member's original; None for a change of layout.
    """

    def __init__(self, members: int, dropout: Sequence[torch.Generator]) -> None:
        self.layers: list[tuple[Layer, Layer | None]] = []
        self._members, self._dropout = members, dropout
        self._layout: Layout = "rows"  # of the features after the layers so far; see `gnt.learners.ensemble.layers`
        self._has_pixels = False  # True if features have more than one dimension
        self._seen: set[int] = set()  # parameters so far, by identity

    def add(self, name: str, layers: Sequence[Layer]) -> None:
        """Stack one layer, given for each member.

        Raises:
            ValueError: a layer that cannot be stacked.
        """
        layer = layers[0]
        kind = getattr(layer, "__name__", type(layer).__name__)
        if not isinstance(layer, nn.Module):
            if identify_activation(layer) is None or identify_activation(layer) == ("rrelu", None):
                raise ValueError(f"{name!r} ({kind}) cannot be stacked: the only functions that can are activations")
            self.layers.append((layer, layer))
            return
        self._check(f"{name!r} ({kind})", layer)
        known = has_torch_forward(layer) or type(layer) is InputNorm
        stacked = self._stack(layer, layers) if known else None
        if stacked is None:
            raise ValueError(f"{name!r} ({kind}) cannot be stacked for an ensemble; allowed are {_ALLOWED}")
        stacked.train(layer.training)
        self.layers.append((stacked, layer))

    def _check(self, title: str, layer: nn.Module) -> None:
        """Refuse what a stacked layer would leave out."""
        if layer._modules:
            raise ValueError(f"{title} cannot be stacked: it has layers inside, or is parametrized")
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
            raise ValueError(f"{title} cannot be stacked: it has hooks, which the ensemble would not call")
        own = {id(parameter) for parameter in layer.parameters()}
        if own & self._seen:
            raise ValueError(f"{title} cannot be stacked: its parameters are those of a layer before it")
        self._seen |= own

    def finish(self) -> None:
        """Bring the output to the layout rows."""
        self._change_layout("rows")

    def _stack(self, layer: nn.Module, layers: Sequence[Any]) -> nn.Module | None:
        """The stacked layer; None for a type that cannot be stacked."""
        if isinstance(layer, nn.Linear):
            if self._has_pixels:  # the network flattens in its forward, not in a listed layer
                self._change_layout("rows")
                self._append_layout_change(FlattenRows(), "rows")
                self._has_pixels = False
            self._change_layout("columns")
            return MemberLinear(_concatenated(layers, "weight"), _concatenated(layers, "bias"), self._members)  # type: ignore[arg-type]
        if isinstance(layer, nn.Flatten):
            if (layer.start_dim, layer.end_dim) != (1, -1):
                return None
            self._change_layout("rows")
            self._has_pixels = False
            return FlattenRows()
        if isinstance(layer, InputNorm):
            self._change_layout("rows")
            return MemberInputNorm(layers)
        if self._layout == "columns" and (isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) or type(layer) is nn.Dropout):
            self._change_layout("rows")
        if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
            weight, bias = (_concatenated(layers, key) for key in ("weight", "bias"))
            return MemberNorm(layer, weight, bias, self._members, self._layout == "channels")
        if type(layer) is nn.Dropout:
            return MemberDropout(layer.p, self._dropout, self._layout == "channels")
        activation = identify_activation(layer)
        if isinstance(layer, nn.Identity) or (activation is not None and activation[0] not in ("prelu", "rrelu")):
            return copy.deepcopy(layer)
        if not isinstance(layer, (*_CONVOLUTIONS, *_BATCH_NORMS, nn.GroupNorm, *_POOLS)):
            return None
        self._change_layout("channels")
        self._has_pixels = self._has_pixels or isinstance(layer, (*_CONVOLUTIONS, *_POOLS))
        return self._widened(layer, layers)

    def _widened(self, layer: Any, layers: Sequence[Any]) -> nn.Module:
        """The same layer with all members' channels, for types that work channel by channel or group by group."""
        wide = copy.deepcopy(layer)
        for size in ("in_channels", "out_channels", "groups", "num_features", "num_groups", "num_channels"):
            if hasattr(wide, size):
                setattr(wide, size, getattr(wide, size) * self._members)
        for key in wide._parameters:
            wide._parameters[key] = _concatenated(layers, key)
        for key, buffer in wide._buffers.items():
            if buffer is not None and buffer.ndim:
                wide._buffers[key] = torch.cat([each._buffers[key] for each in layers])
        return wide  # type: ignore[no-any-return]

    def _change_layout(self, layout: Layout) -> None:
        """Bring features to a layout; from columns to channels and back by way of rows."""
        if layout == self._layout:
            return
        if "rows" not in (layout, self._layout):
            self._change_layout("rows")
        swap = "columns" in (layout, self._layout)
        change = SwapBatch() if swap else ToChannels() if layout == "channels" else ToRows(self._members)
        self._append_layout_change(change, layout)

    def _append_layout_change(self, layer: nn.Module, layout: Layout) -> None:
        self.layers.append((layer, None))
        self._layout = layout


def _concatenated(layers: Sequence[nn.Module], key: str) -> nn.Parameter | None:
    """The members' parameters of one name, concatenated along dimension 0."""
    own = [layer._parameters.get(key) for layer in layers]
    if own[0] is None:
        return None
    tensors: list[Tensor] = [each.detach() for each in own if each is not None]
    return nn.Parameter(torch.cat(tensors), requires_grad=own[0].requires_grad)
