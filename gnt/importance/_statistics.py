"""Means of features over everything but units: what a measure reads of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnt.distributed import dtensor
from gnt.units import CONV_LAYERS, Slot


class TapStatistics:
    """Means over the features that one tap received since the last update.

    Features are viewed as (samples, units, block) or, for a convolution, (samples, units, block, sites). ``block`` is
    the number of positions of a unit (larger than 1 for flattened channels); sites are the pixels of a convolution's
    input.

    Args:
        features: one tensor for each forward.
        slot: the consumer that read them.
        dtype: of the means.
        others: features that consumers read whose input holds the units at other positions, with these consumers. A
            forward in which consumers of both kinds ran counts for each kind.
        group: name of the unit group, for messages.
        gradient_scale: 0-d, by which the gradients are larger than those of the loss; None: they are not.

    The gradient of a feature is in its ``.grad``.
    """

    def __init__(
        self,
        features: Sequence[Tensor],
        slot: Slot,
        dtype: torch.dtype,
        others: Sequence[tuple[Slot, Sequence[Tensor]]] = (),
        group: str = "",
        gradient_scale: Tensor | None = None,
    ) -> None:
        self._group, self._gradient_scale = group, gradient_scale
        self._arranged_gradients: list[Tensor] | None = None
        self._features, self._slot, self._dtype, self._others = features, slot, dtype, others
        self._local_factors: Tensor | None = None  # for sharded units: see `dtensor.pad_to_global`
        self._arranged: list[Tensor] | None = None
        self._weights: list[float] = []  # share of the samples in each arranged feature
        self._size = 0

    @property
    def size(self) -> int:
        """Number of samples (times sites)."""
        if self._arranged is None:
            self._arrange_all()
        return self._size

    @property
    def _parts(self) -> list[Tensor]:
        return self._arranged if self._arranged is not None else self._arrange_all()

    def _arrange_all(self) -> list[Tensor]:
        read = [(self._slot, self._features), *self._others]
        parts = [self._arrange(feature.detach(), slot) for slot, features in read for feature in features]
        sizes = [part.shape[0] * (part.shape[3] if part.ndim == 4 else 1) for part in parts]
        self._size = sum(sizes)
        self._arranged = [part for part, size in zip(parts, sizes, strict=True) if size]
        self._weights = [size / self._size for size in sizes if size]
        return self._arranged

    def _arrange(self, feature: Tensor, slot: Slot) -> Tensor:
        if dtensor.is_dtensor(feature):
            channels = 1 - slot.weight.ndim if isinstance(slot.module, CONV_LAYERS) else -1
            feature, factors = dtensor.pad_to_global(feature, channels)
            self._local_factors = None if factors is None else slot.of_units(factors, 0)
        return arrange(feature, slot)

    def _mean(self, parts: Sequence[Tensor]) -> Tensor:
        if not parts:
            device = self._slot.weight.device
            return torch.zeros(self._slot.num_units, self._slot.block, dtype=self._dtype, device=device)
        means = [part.mean(0 if part.ndim == 3 else (0, 3), dtype=self._dtype) for part in parts]
        if len(means) > 1:
            means = [torch.stack([mean * weight for mean, weight in zip(means, self._weights, strict=True)]).sum(0)]
        return means[0] if self._local_factors is None else means[0] * self._local_factors

    @property
    def _gradients(self) -> list[Tensor]:
        """The gradients of the arranged features, in the dtype of the means."""
        if self._arranged_gradients is None:
            read = [(self._slot, self._features), *self._others]
            parts = [
                self._arrange(self._gradient_of(feature, slot), slot).to(self._dtype)
                for slot, features in read
                for feature in features
                if feature.numel()
            ]
            scale = self._gradient_scale
            self._arranged_gradients = parts if scale is None else [part / scale.to(part) for part in parts]
        return self._arranged_gradients

    def _gradient_of(self, feature: Tensor, slot: Slot) -> Tensor:
        if dtensor.is_dtensor(feature):
            raise RuntimeError(
                f"the features of group {self._group!r} are sharded (DTensor), and gradients of sharded features are "
                "not read: choose a measure that reads no gradients of features"
            )
        if (feature.is_leaf or feature.retains_grad) and feature.grad is not None:
            return feature.grad
        raise RuntimeError(
            f"features of group {self._group!r}, read by {slot.name!r}, have no gradient, which the measure reads. "
            "Recorded features have one unless all layers before the consumer are frozen or detached from the loss: "
            "unfreeze them, or choose a measure that reads no gradients of features. Features that are given must have "
            "theirs in .grad: call retain_grad() on them before the backward"
        )

    def mean(self) -> Tensor:
        """Mean feature of each position: (num_units, block)."""
        return self._mean(self._parts)

    def magnitude(self) -> Tensor:
        """Mean |h| of each position: (num_units, block)."""
        return self._mean([part.abs() for part in self._parts])

    def deviation(self, center: Tensor) -> Tensor:
        """Mean |h - center| of each position, ``center`` (num_units,): (num_units, block)."""
        return self._mean(
            [(part - (center[:, None, None] if part.ndim == 4 else center[:, None])).abs_() for part in self._parts]
        )

    def gradient_magnitude(self) -> Tensor:
        """Mean |dL/dh| of each position: (num_units, block)."""
        return self._mean([gradient.abs() for gradient in self._gradients])

    def gradient_square(self) -> Tensor:
        """Mean (dL/dh)^2 of each position: (num_units, block)."""
        return self._mean([gradient.square() for gradient in self._gradients])

    def product_magnitude(self) -> Tensor:
        """Mean |h dL/dh| of each position: (num_units, block)."""
        pairs = zip(self._parts, self._gradients, strict=True)
        return self._mean([(gradient * part).abs_() for part, gradient in pairs])

    def centered_product(self, center: Tensor) -> Tensor:
        """Mean dL/dh (h - center) of each position, ``center`` (num_units,): (num_units, block)."""
        pairs = zip(self._parts, self._gradients, strict=True)
        return self._mean(
            [
                gradient * (part - (center[:, None, None] if part.ndim == 4 else center[:, None]))
                for part, gradient in pairs
            ]
        )


class GroupStatistics(tuple[TapStatistics, ...]):
    """The statistics of one group in one update, one entry for each tap."""

    @property
    def size(self) -> int:
        """Number of samples (times sites) at the tap that has most; 0 if the group takes no part in the update."""
        return max(statistics.size for statistics in self)


def arrange(feature: Tensor, slot: Slot) -> Tensor:
    """What the consumer at ``slot`` reads, as (samples, units, block) or, of a convolution, with sites behind."""
    if isinstance(slot.module, CONV_LAYERS):
        spatial = slot.weight.ndim - 2
        feature = feature.reshape(-1, feature.shape[-spatial - 1], feature.shape[-spatial:].numel())
    else:
        feature = feature.reshape(-1, feature.shape[-1])
    return slot.of_units(feature, 1)
