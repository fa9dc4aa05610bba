"""Evaluation of simple groups by torch operations: means of features and weights, and the measure from these means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnt.importance._evaluate.means_layout import GroupLayout, MeansLayout, WeightMeans
from gnt.importance._shared_state import SharedState

# |w| is computed in parts that fit into a core's cache: a temporary of full size would be written to memory and read
# back
_PART = 1 << 18


class EagerEvaluation:
    """Evaluation by torch operations, on any device.

    Args:
        layout: where the means are stored.
        shared: the groups' state.
        reads: the signals that the measure reads.
    """

    def __init__(self, layout: MeansLayout, shared: SharedState, reads: frozenset[str]) -> None:
        self._layout, self._shared = layout, shared
        self._feature = bool(reads & {"magnitude", "deviation"})
        self._centered, self._outgoing, self._incoming = (
            name in reads for name in ("deviation", "outgoing", "incoming")
        )
        self._buffer: Tensor | None = None

    def accepts(self, feature: Tensor) -> bool:
        """True for a feature of the state's dtype."""
        return feature.dtype is self._shared.averages.dtype

    def evaluate(self, features: Sequence[Tensor | None]) -> bool:
        """Compute mean feature and utility of each unit. Returns whether a C kernel did it.

        Args:
            features: those of the simple groups; None for a group that takes no part, whose values are undefined.
        """
        self._reduce_features(features)
        for means in self._layout.weights:
            weight = means.module._parameters.get("weight")
            self._reduce_weight(means.module.weight if weight is None else weight, means)  # type: ignore[arg-type]
        if self._layout.uniform:
            layout = self._layout
            self._combine(layout.feature, layout.outgoing, layout.incoming, 1, self._shared.all_utilities)
            return False
        for group in self._layout.simple:
            self._combine(group.feature, group.outgoing, group.incoming, group.block, group.utility)
        return False

    def _reduce_features(self, features: Sequence[Tensor | None]) -> None:
        """Mean features, and mean |h| (or, for mean-corrected measures, mean |h - f^|) of each position."""
        arranged: list[tuple[Tensor, GroupLayout]] = []
        for given, group in zip(features, self._layout.simple, strict=True):
            if given is None:
                continue
            feature = given if group.spatial == 0 and given.ndim == 2 else _arrange(given, group)
            if feature.shape[0] == 1 and feature.ndim == 2 and group.block == 1 and not self._centered:
                sample = feature[0]  # it is its own mean, which a copy gives in a fifth of the time
                group.mean.copy_(sample)
                if self._feature:
                    torch.abs(sample, out=group.feature)
                continue
            samples = (0, 2) if feature.ndim == 3 else 0
            if group.block == 1:
                torch.mean(feature, samples, out=group.mean)
            else:
                torch.mean(feature.mean(samples).view(-1, group.block), 1, out=group.mean)
            if self._centered:
                arranged.append((feature, group))
            elif self._feature:
                torch.mean(feature.abs(), samples, out=group.feature)
        if not arranged:
            return
        centers = self._shared.centers()
        for feature, group in arranged:
            center = centers[group.number].view(-1)
            center = center.repeat_interleave(group.block) if group.block > 1 else center
            magnitude = (feature - (center[:, None] if feature.ndim == 3 else center)).abs_()
            torch.mean(magnitude, (0, 2) if feature.ndim == 3 else 0, out=group.feature)

    def _reduce_weight(self, weight: Tensor, means: WeightMeans) -> None:
        """Mean |w| of each row and column that is read."""
        if weight.shape != means.shape:
            if not means.fit(weight):
                raise RuntimeError(
                    f"the weight of {type(means.module).__name__} has shape {tuple(weight.shape)}, which is not its "
                    "shape when the engine was built: build a new engine after changing the sizes of layers. No unit "
                    "was changed"
                )
            means.shape = weight.shape
        rows, columns, groups = means.rows, means.columns, means.groups
        if weight.ndim == 2 and groups == 1 and weight.numel() > 2 * _PART:
            self._reduce_in_parts(weight, rows, columns)
            return
        if rows is None and columns is not None and weight.ndim == 2 and weight.shape[0] == 1:
            torch.abs(weight[0], out=columns)  # a row is its own mean
            return
        magnitude = weight.abs()
        if columns is not None and weight.ndim == 2 and groups == 1:
            torch.mean(magnitude, 0, out=columns)
        elif columns is not None:
            grouped = magnitude.reshape(groups, -1, weight.shape[1], weight.shape[2:].numel())
            torch.mean(grouped, (1, 3), out=columns.view(groups, -1))
        if rows is not None:
            torch.mean(magnitude.flatten(1), 1, out=rows)

    def _reduce_in_parts(self, weight: Tensor, rows: Tensor | None, columns: Tensor | None) -> None:
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

    def _combine(self, feature: Tensor, outgoing: Tensor, incoming: Tensor, block: int, out: Tensor) -> None:
        """The mean over a unit's positions of feature * outgoing, divided by the mean incoming weight."""
        if self._feature and self._outgoing:
            utility = torch.mul(feature, outgoing, out=None if self._incoming or block > 1 else out)
        else:
            utility = feature if self._feature else outgoing if self._outgoing else torch.ones_like(incoming)
        if block > 1 and utility.numel() > out.numel():
            utility = utility.view(-1, block).mean(1)
        if self._incoming:
            utility = torch.div(utility, incoming.clamp_min(torch.finfo(incoming.dtype).eps), out=out)
        if utility is not out:
            out.copy_(utility)


def _arrange(feature: Tensor, group: GroupLayout) -> Tensor:
    """(samples, positions), or (samples, positions, sites) for a convolution."""
    spatial = group.spatial
    if spatial == 0:
        return feature.reshape(-1, feature.shape[-1])
    return feature.reshape(-1, feature.shape[-spatial - 1], feature.shape[-spatial:].numel())
