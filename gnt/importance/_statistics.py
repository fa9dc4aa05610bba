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
    """

    def __init__(
        self,
        features: Sequence[Tensor],
        slot: Slot,
        dtype: torch.dtype,
        others: Sequence[tuple[Slot, Sequence[Tensor]]] = (),
    ) -> None:
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
        if isinstance(slot.module, CONV_LAYERS):
            spatial = slot.weight.ndim - 2
            feature = feature.reshape(-1, feature.shape[-spatial - 1], feature.shape[-spatial:].numel())
        else:
            feature = feature.reshape(-1, feature.shape[-1])
        return slot.of_units(feature, 1)

    def _mean(self, parts: Sequence[Tensor]) -> Tensor:
        if not parts:
            device = self._slot.weight.device
            return torch.zeros(self._slot.num_units, self._slot.block, dtype=self._dtype, device=device)
        means = [part.mean(0 if part.ndim == 3 else (0, 3), dtype=self._dtype) for part in parts]
        if len(means) > 1:
            means = [torch.stack([mean * weight for mean, weight in zip(means, self._weights, strict=True)]).sum(0)]
        return means[0] if self._local_factors is None else means[0] * self._local_factors

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


class GroupStatistics(tuple[TapStatistics, ...]):
    """The statistics of one group in one update, one entry for each tap."""

    @property
    def size(self) -> int:
        """Number of samples (times sites) at the tap that has most; 0 if the group takes no part in the update."""
        return max(statistics.size for statistics in self)
