"""Features and weights of simple groups, reduced by kernels in C++; what these cannot read goes by `gnt.by_torch`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnt.by_torch import ByTorch
from gnt.flat_state import FlatState
from gnt.kernels import load
from gnt.places import Place, Places, WeightPlace


class ByKernels(ByTorch):
    """As `ByTorch`, for tensors on the CPU."""

    def __init__(self, reads: frozenset[str], dtype: torch.dtype, decay_rate: float) -> None:
        super().__init__(reads)
        self._of_features, self._of_weights, self._of_units = (
            load(name, dtype) for name in ("features", "magnitudes", "worth")
        )
        self._numbers = torch.tensor([decay_rate, math.log(decay_rate) if decay_rate else 0.0], dtype=torch.float64)
        self._dtype = dtype
        self._scratch, self._room = torch.empty(0, dtype=dtype), 0
        self._reads = self._feature + 2 * self._outgoing + 4 * self._incoming

    def features(self, features: Sequence[Tensor], places: Sequence[Place], flat: FlatState) -> None:
        """Mean features, and mean |h| (or where the measure subtracts it: mean |h - f^|) of each position."""
        if any(feature.__class__ is not Tensor for feature in features):
            super().features(features, places, flat)
            return
        now = flat.states[0].updates + 1
        for feature, place in zip(features, places, strict=True):
            positions = place.positions
            if self._room < 2 * positions:
                self._room, self._scratch = 2 * positions, self._scratch.new_empty(2 * positions)
            samples, sites = feature.numel() // positions, 1
            if place.conv:
                sites = feature.shape[-(place.slot.weight.ndim - 2) :].numel()
                samples //= sites
            self._of_features(
                feature,
                place.mean,
                place.feature,
                place.average,
                place.born,
                self._numbers,
                self._scratch,
                now,
                1,
                samples,
                positions,
                sites,
                place.block,
                self._centred,
            )

    def weights(self, weight: Tensor, place: WeightPlace) -> None:
        """Mean |w| of each row and column, as far as they are wanted and not known already."""
        if place.version == weight._version:
            return
        if weight.__class__ is not nn.Parameter or weight.dtype is not self._dtype or not weight.is_contiguous():
            super().weights(weight, place)
            return
        rows, columns, groups = place.rows, place.columns, place.groups
        shape = weight.shape
        inner = shape[2:].numel() if len(shape) > 2 else 1
        self._of_weights(
            weight,
            self._scratch if rows is None else rows,
            self._scratch if columns is None else columns,
            groups,
            shape[0] // groups,
            shape[1],
            inner,
            rows is not None,
            columns is not None,
        )

    def worths(self, places: Places, flat: FlatState) -> None:
        """What the measure makes of them: the mean over a unit's positions of the product, by the incoming weights."""
        if places.uniform:
            self._worth_of(places.feature, places.outgoing, places.incoming, flat.all_worths, 1)
            return
        for place in places.simple:
            self._worth_of(place.feature, place.outgoing, place.incoming, place.worth, place.slot.block)

    def _worth_of(self, feature: Tensor, outgoing: Tensor, incoming: Tensor, worth: Tensor, block: int) -> None:
        self._of_units(feature, outgoing, incoming, worth, worth.numel(), block, self._reads)
