"""The gate of a unit as a function of its embedding, with the gradients of HAT."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from gnt.names import Compensation

_LARGE = 40.0  # exp of minus this is below the precision of float64
_SMALL = 8.0  # up to this e, 1 - sigmoid(e) has three digits in float32


def annealed_scale(batch: int, batches: int, s_max: float) -> float:
    """The scale s of the gates in a batch of an epoch: from 1 / s_max in the first to s_max in the last.

    s = 1 / s_max + (s_max - 1 / s_max) (b - 1) / (B - 1); s_max if there is one batch only.

    Args:
        batch: b, from 1.
        batches: B.
        s_max: the scale of the last batch.

    >>> [annealed_scale(b, 3, 4.0) for b in (1, 2, 3)]
    [0.25, 2.125, 4.0]
    """
    if batches == 1:
        return s_max
    return 1 / s_max + (s_max - 1 / s_max) * (batch - 1) / (batches - 1)


def gate_slope(embedding: Tensor, scale: float, s_max: float, clip: float | None) -> Tensor:
    """The derivative of the gates that compensates annealing: s_max sigmoid'(e), times a factor beyond a clip.

    The factor is 1 up to |s e| = clip and (cosh(clip) + 1) / (cosh(s e) + 1) beyond. This is the derivative of
    sigmoid(s e) times the published compensation s_max (cosh(s e) + 1) / (s (cosh(e) + 1)), without its cancellation.

    Args:
        embedding: e of each unit.
        scale: s.
        s_max: the largest s.
        clip: None: none.
    """
    gate = embedding.abs().neg_().sigmoid_()  # of -|e|: 1 - gate does not cancel, and both sides are alike
    slope = torch.addcmul(gate, gate, gate, value=-1.0).mul_(s_max)
    if clip is None:
        return slope
    # cosh(z) + 1 = exp(z) (1 + exp(-z))^2 / 2
    z = embedding * scale
    if clip >= _LARGE:
        return slope.mul_(torch.nn.functional.softshrink(z, clip).abs_().neg_().exp_())
    z = z.abs_().clamp_(min=clip)
    return slope.mul_(torch.exp(clip - z) * ((1 + math.exp(-clip)) / (1 + torch.exp(-z))).square_())


class _Gate(torch.autograd.Function):
    """sigmoid(s e), with a derivative of its own.

    Nothing is saved for the backward, so that several forwards and backwards can share one gate.
    """

    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, scale: float, s_max: float, compensation: Compensation, clip: float, bound: float
    ) -> Tensor:
        # values of their own: the embedding may have changed when the backward runs
        ctx.scaled, ctx.slope, ctx.settings = embedding * scale, None, (scale, s_max, compensation, clip)
        short = compensation == "published" and clip >= _LARGE and bound <= _SMALL
        ctx.wide = torch.sigmoid(embedding) if short else None
        return torch.sigmoid(ctx.scaled)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        scale, s_max, compensation, clip = ctx.settings
        if ctx.slope is None and compensation == "none":
            gate = torch.sigmoid(ctx.scaled)
            ctx.slope = scale * (gate * (1 - gate))
        elif ctx.slope is None and ctx.wide is not None:  # as gate_slope, in fewer operations
            beyond = torch.nn.functional.softshrink(ctx.scaled, clip).abs_()
            ctx.slope = torch.rsub(beyond, math.log(s_max)).exp_()
        elif ctx.slope is None:
            ctx.slope = gate_slope(ctx.scaled / scale, scale, s_max, clip if compensation == "published" else None)
        result = gradient * ctx.slope
        if ctx.wide is not None:
            result = torch.ops.aten.sigmoid_backward(result, ctx.wide)
        return result, None, None, None, None, None


class _Select(torch.autograd.Function):
    """``values[index]`` with 1 where the index is -1; saves nothing for the backward, as `_Gate`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.index, ctx.size = index, values.shape[0]
        return torch.cat([values, values.new_ones(1)])[index]  # -1 is the last entry

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.new_zeros(ctx.size + 1)
        return total.index_add_(0, ctx.index % (ctx.size + 1), gradient)[:-1], None


def gate(
    embedding: Tensor,
    scale: float,
    s_max: float,
    compensation: Compensation = "published",
    clip: float = 50.0,
    bound: float = math.inf,
) -> Tensor:
    """The gate sigmoid(s e) of each unit, differentiable with respect to e.

    Args:
        embedding: e of each unit.
        scale: s.
        s_max: the largest s.
        compensation: the derivative. "published": `gate_slope` with the clip; "exact": without; "none": that of
            sigmoid(s e).
        clip: see `gate_slope`.
        bound: no e is larger.

    >>> e = torch.tensor([0.0, 6.0], requires_grad=True)
    >>> gate(e, 0.5, 4.0)
    tensor([0.5000, 0.9526], grad_fn=<_GateBackward>)
    """
    return cast(Tensor, _Gate.apply(embedding, scale, s_max, compensation, clip, bound))  # type: ignore[no-untyped-call]


def select(values: Tensor, index: Tensor) -> Tensor:
    """The entries of a vector at ``index``, with 1 where that is -1."""
    return cast(Tensor, _Select.apply(values, index))  # type: ignore[no-untyped-call]
