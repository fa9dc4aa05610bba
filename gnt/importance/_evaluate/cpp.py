"""Simple groups tested by one call of a kernel, ``gnt/kernels/watch.cpp``; what it cannot read goes by `gnt.by_torch`.

What the kernel is told are addresses, which are looked up once. Whether the weights still lie there is asked each time.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnt._kernels import load
from gnt.importance._evaluate.eager import ByTorch
from gnt.importance._evaluate.layout import Place, Places, WeightPlace
from gnt.importance._shared_state import FlatState

_GROUP, _WEIGHT = 12, 8  # numbers that the kernel is told of a group, and of a weight
_SAMPLES, _KNOWN = 8, 7  # where the number of samples stands, and whether a weight's means are known


class ByKernels(ByTorch):
    """As `ByTorch`, for float32 or float64 tensors on the CPU."""

    def __init__(self, places: Places, flat: FlatState, reads: frozenset[str]) -> None:
        super().__init__(places, flat, reads)
        self._dtype = flat.averages.dtype
        self._kernel = load("unit_statistics", self._dtype)
        decay_rate = flat.states[0].decay_rate
        self._numbers = torch.tensor([decay_rate, math.log(decay_rate) if decay_rate else 0.0], dtype=torch.float64)
        self._reads = self._feature + 2 * self._outgoing + 4 * self._incoming + 8 * self._centred
        self._groups, self._groups_told = _shared(
            [number for place in places.simple for number in _told_of_group(place)]
        )
        self._weights, self._weights_told = _shared([0] * (_WEIGHT * len(places.weights)))
        self._seen: list[tuple[Tensor, WeightPlace, int]] | None = None

    def test(self, features: Sequence[Tensor]) -> None:
        """As `ByTorch.test`, where everything is contiguous; else by it."""
        if not self.test_by_kernel(features):
            super().test(features)

    def test_by_kernel(self, features: Sequence[Tensor]) -> bool:
        """Test the groups; or return False, where the kernel cannot read features or weights."""
        if not self._look(features):
            return False
        assert self._seen is not None
        for i, (weight, place, _) in enumerate(self._seen):
            self._weights[i * _WEIGHT + _KNOWN] = place.summed is weight and place.version == weight._version
        self._kernel(
            self._groups_told,
            self._weights_told,
            self._numbers,
            len(features),
            len(self._seen),
            self._reads,
            self._flat.states[0].updates + 1,
            torch.get_num_threads(),
        )
        return True

    def _look(self, features: Sequence[Tensor]) -> bool:
        """Note where features and weights lie; False where the kernel cannot read them."""
        for i, (feature, place) in enumerate(zip(features, self._places.simple, strict=True)):
            if feature.__class__ is not Tensor or feature.dtype is not self._dtype or not feature.is_contiguous():
                return False
            sites = 1 if place.spatial == 0 else feature.shape[-place.spatial :].numel()
            at = i * _GROUP
            self._groups[at] = feature.data_ptr()
            self._groups[at + _SAMPLES] = feature.numel() // (place.positions * sites)
            self._groups[at + _SAMPLES + 2] = sites
        if self._seen is None or not all(_lies(weight, place, at, self._dtype) for weight, place, at in self._seen):
            self._seen = None
            seen: list[tuple[Tensor, WeightPlace, int]] = []
            for i, target in enumerate(self._places.weights):
                weight = target.module.weight
                if not isinstance(weight, nn.Parameter) or not _lies(weight, target, weight.data_ptr(), self._dtype):
                    return False
                self._weights[i * _WEIGHT : (i + 1) * _WEIGHT] = array("q", _told_of_weight(weight, target))
                seen.append((weight, target, weight.data_ptr()))
            self._seen = seen
        return True


def _lies(weight: Tensor, place: WeightPlace, at: int, dtype: torch.dtype) -> bool:
    """Whether this is still the module's weight, where it was and as the kernel reads it."""
    same = place.module._parameters.get("weight") is weight and weight.data_ptr() == at
    return same and weight.dtype is dtype and weight.is_contiguous()


def _shared(numbers: list[int]) -> tuple[array[int], Tensor]:
    """Numbers to be changed one by one, and the tensor of them."""
    kept = array("q", numbers)
    return kept, torch.frombuffer(kept, dtype=torch.int64) if kept else torch.zeros(0, dtype=torch.int64)


def _told_of_group(place: Place) -> list[int]:
    tensors = (place.mean, place.worth, place.feature, place.average, place.born, place.outgoing, place.incoming)
    return [0, *(tensor.data_ptr() for tensor in tensors), 0, place.positions, 1, place.block]


def _told_of_weight(weight: Tensor, place: WeightPlace) -> list[int]:
    means = [0 if tensor is None else tensor.data_ptr() for tensor in (place.rows, place.columns)]
    rows, columns = weight.shape[0] // place.groups, weight.shape[1]
    return [weight.data_ptr(), *means, place.groups, rows, columns, weight.shape[2:].numel(), 0]
