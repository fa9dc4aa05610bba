"""Simple groups tested by torch's operations: means of features and weights, and what a measure makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnt.importance._evaluate.layout import Place, Places, WeightPlace
from gnt.importance._shared_state import FlatState

# |w| is taken in parts that stay in a core's cache: a temporary of full size would be written to memory and read again
_PART = 1 << 18


class ByTorch:
    """The plain operations; they run everywhere.

    Args:
        places: where the numbers go.
        flat: the groups' state.
        reads: which signals the measure reads, as `gnt.utility.Measure` says.
    """

    def __init__(self, places: Places, flat: FlatState, reads: frozenset[str]) -> None:
        self._places, self._flat = places, flat
        self._feature = bool(reads & {"magnitude", "deviation"})
        self._centred, self._outgoing, self._incoming = (
            name in reads for name in ("deviation", "outgoing", "incoming")
        )
        self._buffer: Tensor | None = None

    def test(self, features: Sequence[Tensor]) -> None:
        """Mean feature and worth of each unit; ``features`` are those of the simple groups."""
        self._test_features(features)
        for weight in self._places.weights:
            self._test_weight(weight.module.weight, weight)  # type: ignore[arg-type]
        if self._places.uniform:
            places = self._places
            self._judge(places.feature, places.outgoing, places.incoming, 1, self._flat.all_worths)
            return
        for place in self._places.simple:
            self._judge(place.feature, place.outgoing, place.incoming, place.block, place.worth)

    def _test_features(self, features: Sequence[Tensor]) -> None:
        """Mean features, and mean |h| (or where the measure subtracts it: mean |h - f^|) of each position."""
        places = self._places.simple
        arranged = [_arrange(feature, place) for feature, place in zip(features, places, strict=True)]
        for feature, place in zip(arranged, places, strict=True):
            samples = (0, 2) if feature.ndim == 3 else 0
            if place.block == 1:
                torch.mean(feature, samples, out=place.mean)
            else:
                torch.mean(feature.mean(samples).view(-1, place.block), 1, out=place.mean)
        if not self._feature:
            return
        centres = self._flat.centre() if self._centred else []
        for feature, place in zip(arranged, places, strict=True):
            if self._centred:
                centre = centres[place.number].view(-1)
                centre = centre.repeat_interleave(place.block) if place.block > 1 else centre
                magnitude = (feature - (centre[:, None] if feature.ndim == 3 else centre)).abs_()
            else:
                magnitude = feature.abs()
            torch.mean(magnitude, (0, 2) if feature.ndim == 3 else 0, out=place.feature)

    def _test_weight(self, weight: Tensor, place: WeightPlace) -> None:
        """Mean |w| of each row and column, as far as they are wanted."""
        rows, columns, groups = place.rows, place.columns, place.groups
        if weight.ndim == 2 and groups == 1 and weight.numel() > 2 * _PART:
            self._in_parts(weight, rows, columns)
            return
        magnitude = weight.abs()
        if columns is not None and weight.ndim == 2 and groups == 1:
            torch.mean(magnitude, 0, out=columns)
        elif columns is not None:
            grouped = magnitude.reshape(groups, -1, weight.shape[1], weight.shape[2:].numel())
            torch.mean(grouped, (1, 3), out=columns.view(groups, -1))
        if rows is not None:
            torch.mean(magnitude.flatten(1), 1, out=rows)

    def _in_parts(self, weight: Tensor, rows: Tensor | None, columns: Tensor | None) -> None:
        width = weight.shape[1]
        parts = torch.split(weight, max(1, _PART // width))
        if self._buffer is None or self._buffer.numel() < parts[0].numel() or self._buffer.dtype != weight.dtype:
            self._buffer = torch.empty(parts[0].numel(), dtype=weight.dtype, device=weight.device)
        buffer = self._buffer[: parts[0].numel()].view_as(parts[0])
        sums = weight.new_empty(len(parts), width)
        start = 0
        for i, part in enumerate(parts):
            magnitude = torch.abs(part, out=buffer[: len(part)])
            if columns is not None:
                torch.sum(magnitude, 0, out=sums[i])
            if rows is not None:
                torch.mean(magnitude, 1, out=rows[start : start + len(part)])
            start += len(part)
        if columns is not None:
            torch.sum(sums, 0, out=columns).div_(len(weight))

    def _judge(self, feature: Tensor, outgoing: Tensor, incoming: Tensor, block: int, out: Tensor) -> None:
        """The mean over a unit's positions of the product, divided by the incoming weights."""
        if self._feature and self._outgoing:
            worth = torch.mul(feature, outgoing, out=None if self._incoming or block > 1 else out)
        else:
            worth = feature if self._feature else outgoing if self._outgoing else torch.ones_like(incoming)
        if len(worth) > len(out):
            worth = worth.view(-1, block).mean(1)
        if self._incoming:
            worth = torch.div(worth, incoming.clamp_min(torch.finfo(incoming.dtype).eps), out=out)
        if worth is not out:
            out.copy_(worth)


def _arrange(feature: Tensor, place: Place) -> Tensor:
    """(samples, positions), or (samples, positions, sites) for a convolution."""
    spatial = place.spatial
    if spatial == 0:
        return feature if feature.ndim == 2 else feature.reshape(-1, feature.shape[-1])
    return feature.reshape(-1, feature.shape[-spatial - 1], feature.shape[-spatial:].numel())
