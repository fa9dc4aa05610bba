"""Layers that apply each member's own layer to its own features.

Parameters hold those of the members one after the other along dimension 0. Features have one of three layouts,
whichever is fastest for the layer:

    rows       (members, batch, features...)             x, y and the output
    columns    (members, features, batch)                linear layers, whose gradients then need no transposition
    channels   (batch, members * channels, *pixels)      convolutions, poolings, and norms over channels
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnt.initialization import register_init_distribution
from gnt.nn import InputNorm


class MemberLinear(nn.Module):
    """Linear layers, y_s = W_s x_s + b_s for each member s: (members, in, batch) -> (members, out, batch).

    ``weight`` is (members * out, in), ``bias`` (members * out,) or None.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, members: int) -> None:
        super().__init__()
        self.input_groups = members
        self.weight, self.bias = weight, bias
        self._shape = (members, weight.shape[0] // members, weight.shape[1])
        self._bias_shape = (members, weight.shape[0] // members, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One batched matrix product."""
        weight = self.weight.view(self._shape)
        if x.shape[2] == 1 and type(x) is not Tensor:
            # while a step is captured: the compiler fuses elementwise operations, but not a matrix product
            y = (weight * x.transpose(1, 2)).sum(2, keepdim=True)
            return y if self.bias is None else y + self.bias.view(self._bias_shape)
        if self.bias is None:
            return torch.bmm(weight, x)
        return torch.baddbmm(self.bias.view(self._bias_shape), weight, x)

    @staticmethod
    def samples_first(x: Tensor) -> Tensor:
        """What the layer reads, (members, features, batch), in the layout of features: (batch, members * features)."""
        return x.detach().reshape(-1, x.shape[2]).t().contiguous()

    def extra_repr(self) -> str:
        """Sizes, as torch's Linear shows them."""
        members, out, reads = self._shape
        return f"members={members}, in_features={reads}, out_features={out}, bias={self.bias is not None}"


class MemberNorm(nn.Module):
    """LayerNorm or RMSNorm of each member, over the last ``len(shape)`` dimensions, with the member's own parameters.

    ``weight`` and ``bias`` are (members * shape[0], *shape[1:]) or None. The layout channels is viewed as (batch,
    members, channels, *pixels).
    """

    def __init__(
        self,
        norm: nn.LayerNorm | nn.RMSNorm,
        weight: nn.Parameter | None,
        bias: nn.Parameter | None,
        members: int,
        channels: bool,
    ) -> None:
        super().__init__()
        self._norm, self._shape = type(norm), tuple(norm.normalized_shape)
        self._eps, self._members, self._channels = norm.eps, members, channels
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, then scale and shift."""
        y = torch.unflatten(x, 1, (self._members, -1)) if self._channels else x
        if self._norm is nn.LayerNorm:
            y = F.layer_norm(y, self._shape, eps=self._eps)  # type: ignore[arg-type]
        else:
            y = F.rms_norm(y, self._shape, eps=self._eps)
        # dimensions from that of the members on: members, those in between, the normalized ones
        between = y.ndim - len(self._shape) - (2 if self._channels else 1)
        wide = (self._members, *[1] * between, *self._shape)
        if self.weight is not None:
            y = y * self.weight.view(wide)
        if self.bias is not None:
            y = y + self.bias.view(wide)
        return y.flatten(1, 2) if self._channels else y


class MemberInputNorm(InputNorm):
    """`InputNorm` of each member, with the member's own statistics: (members, batch, ...) -> (members, batch, ...).

    ``mean`` and ``var`` are (members, *shape); ``batches``, which all members have in common, is 0-d.
    """

    def __init__(self, norms: Sequence[InputNorm]) -> None:
        first = norms[0]
        super().__init__((len(norms), *first.shape), first.decay, first.eps)
        self.mean, self.var = (torch.stack([getattr(norm, name) for norm in norms]) for name in ("mean", "var"))
        self.batches = first.batches.clone()

    def forward(self, x: Tensor) -> Tensor:
        """The normalized input: the members are a dimension of the statistics, which none is taken over."""
        place = x.ndim - len(self.shape)
        if place < 0:
            self._check(x)
        return super().forward(x.movedim(0, place)).movedim(place, 0)


register_init_distribution(MemberLinear, like=nn.Linear)
register_init_distribution(MemberNorm, like=nn.LayerNorm)


class MemberDropout(nn.Module):
    """Dropout; the draws for member s come from generator s, and are those of `torch.nn.Dropout` in a single run.

    Attributes:
        noise_layout: shape, dtype and device of the noise that was drawn last, members first.
        given_noise: noise to be used in place of draws, while a step is captured as a graph.
    """

    def __init__(self, p: float, generators: Sequence[torch.Generator], channels: bool) -> None:
        super().__init__()
        self.p, self._generators, self._channels = p, list(generators), channels
        self.noise_layout: tuple[torch.Size, torch.dtype, torch.device] | None = None
        self.given_noise: Tensor | None = None

    @property
    def active(self) -> bool:
        """True if forwards draw noise."""
        return self.training and 0.0 < self.p < 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Zero each feature with probability p, and scale the others by 1 / (1 - p)."""
        if not self.training or self.p == 0.0 or not x.numel():
            return x
        if self.p == 1.0:
            return x * 0.0
        y = torch.unflatten(x, 1, (len(self._generators), -1)).transpose(0, 1) if self._channels else x
        noise = self.given_noise
        if noise is None:
            self.noise_layout = (y.shape, y.dtype, y.device)
            noise = self.draw(self.noise_layout)
        y = y * noise
        return y.transpose(0, 1).flatten(1, 2) if self._channels else y

    def draw(self, layout: tuple[torch.Size, torch.dtype, torch.device]) -> Tensor:
        """Noise for one forward: 0 with probability p, otherwise 1 / (1 - p)."""
        shape, dtype, device = layout
        noise = torch.empty(shape, dtype=dtype, device=device)
        for own, generator in zip(noise, self._generators, strict=True):
            own.bernoulli_(1.0 - self.p, generator=generator)
        return noise.div_(1.0 - self.p)

    def extra_repr(self) -> str:
        """The probability, as torch's Dropout shows it."""
        return f"p={self.p}"


class SwapBatch(nn.Module):
    """From rows to columns or back: (members, batch, features) <-> (members, features, batch)."""

    def forward(self, x: Tensor) -> Tensor:
        """Swap the last two dimensions."""
        return x.transpose(1, 2)


class ToChannels(nn.Module):
    """From rows to channels: (members, batch, channels, *pixels) -> (batch, members * channels, *pixels)."""

    def forward(self, x: Tensor) -> Tensor:
        """Move the batch to the front."""
        return x.transpose(0, 1).flatten(1, 2)


class ToRows(nn.Module):
    """From channels to rows: (batch, members * channels, *pixels) -> (members, batch, channels, *pixels)."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self._members = members

    def forward(self, x: Tensor) -> Tensor:
        """Move the members to the front."""
        return torch.unflatten(x, 1, (self._members, -1)).transpose(0, 1)


class FlattenRows(nn.Module):
    """`torch.nn.Flatten` for each member: (members, batch, ...) -> (members, batch, features)."""

    def forward(self, x: Tensor) -> Tensor:
        """Flatten the dimensions after the batch."""
        return x.flatten(2)
