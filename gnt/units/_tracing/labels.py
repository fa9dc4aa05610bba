"""Label tensors, which give for each element of a value the unit it belongs to, and the table of all units.

A label is 0 for an element of no unit, and otherwise the number of a unit. A value may contain the same units several
times (``cat([relu(h), relu(-h)])``); the bits above ``UNIT_MASK`` then hold the number of the occurrence.

Label tensors are stored *compactly*: a dimension along which the labels do not vary has size 1. They are therefore
small for batches and images, and whether they vary along a dimension can be read off their shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

UNIT_MASK = (1 << 32) - 1
_OCCURRENCE_SHIFT = 32
Labels = Tensor | None  # None: no element belongs to a unit
UNKNOWN_ACTIVATION = "?"  # units that pass an activation which is not recognised


def units_of(labels: Tensor) -> Tensor:
    """The unit numbers of labels, without the occurrences."""
    return labels & UNIT_MASK


def occurrences_of(labels: Tensor) -> Tensor:
    """The occurrence numbers of labels."""
    return labels >> _OCCURRENCE_SHIFT


def with_occurrence(labels: Tensor, occurrence: int) -> Tensor:
    """Labels of the same units with another occurrence number; elements of no unit keep label 0."""
    return torch.where(labels > 0, units_of(labels) | occurrence << _OCCURRENCE_SHIFT, labels)


def compact(labels: Tensor) -> Labels:
    """Reduce every dimension along which the labels do not vary to size 1; None if all labels are 0."""
    for dim, size in enumerate(labels.shape):
        if size > 1:
            first = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == first).all()):
                labels = first
    return labels if labels.numel() and bool(labels.any()) else None


def expand(labels: Labels, shape: Sequence[int]) -> Tensor:
    """Compact labels expanded to the shape of their value."""
    labels = torch.zeros((), dtype=torch.int64, device="cpu") if labels is None else labels
    return labels.expand(tuple(shape))


def varies(labels: Tensor, dims: Iterable[int]) -> bool:
    """True if compact labels vary along any of these dimensions."""
    return any(labels.shape[dim] > 1 for dim in dims)


def add_leading_dims(labels: Tensor, ndim: int) -> Tensor:
    """Compact labels with leading dimensions of size 1, as in broadcasting to ``ndim`` dimensions."""
    return labels.reshape((*[1] * (ndim - labels.ndim), *labels.shape))


def broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two label tensors broadcast to one shape."""
    a, b = torch.broadcast_tensors(a, b)
    return a, b


def distinct_units(labels: Tensor) -> Tensor:
    """The sorted distinct units in a label tensor."""
    units = _distinct(units_of(labels))
    return units[units > 0]


class UnitTable:
    """All units of a graph: which of them are joined, their activations, and why some are refused.

    Units are numbered from 1. Joined units have the same ``root``: the gate row and the up row of SwiGLU are one unit.
    """

    def __init__(self) -> None:
        self.root = torch.zeros(1, dtype=torch.int64, device="cpu")
        self.sum = torch.zeros(
            1, dtype=torch.int64, device="cpu"
        )  # equal for units that are summed, so that activations see the sum
        self.refusal = torch.zeros(
            1, dtype=torch.int64, device="cpu"
        )  # index into `reasons` for each unit; 0 if not refused
        self.activation = torch.zeros(
            1, dtype=torch.int64, device="cpu"
        )  # index into `activations`; 0 if none was seen
        self.reasons: list[str] = [""]
        self.activations: list[object] = [None]
        self._ranked: tuple[Tensor, Tensor, int] | None = None  # `root`, and the ranks that were computed for it

    def new(self, count: int) -> Tensor:
        """Add ``count`` units and return their labels."""
        first = len(self.root)
        labels = torch.arange(first, first + count, device="cpu")
        self.root = torch.cat([self.root, labels])
        self.sum = torch.cat([self.sum, labels])
        self.refusal = torch.cat([self.refusal, torch.zeros(count, dtype=torch.int64, device="cpu")])
        self.activation = torch.cat([self.activation, torch.zeros(count, dtype=torch.int64, device="cpu")])
        return labels

    def refuse(self, labels: Labels, reason: str) -> None:
        """Record why the units of these labels cannot be replaced; the first reason of a unit is kept."""
        if labels is not None:
            units = distinct_units(labels)
            self.reasons.append(reason)
            self.refusal[units[self.refusal[units] == 0]] = len(self.reasons) - 1

    def set_activation(self, labels: Labels, activation: object, *, replacing: Sequence[object] = ()) -> None:
        """Record an activation for units that have none yet, or have one of ``replacing``."""
        if labels is not None:
            units = torch.isin(self.sum, self.sum[distinct_units(labels)]).nonzero().flatten()
            if activation not in self.activations:
                self.activations.append(activation)
            replaceable = self.activation[units] == 0
            for other in replacing:
                if other in self.activations:
                    replaceable |= self.activation[units] == self.activations.index(other)
            self.activation[units[replaceable]] = self.activations.index(activation)

    def has_activation(self, labels: Labels) -> bool:
        """True if an activation, known or not, was recorded for one of these units."""
        return labels is not None and bool(self.activation[distinct_units(labels)].any())

    def value_numbers(self, labels: Tensor) -> Tensor:
        """Numbers that distinguish the values of one unit: its occurrences and its joined rows."""
        rank, count = self._ranks()
        return occurrences_of(labels) * count + rank[units_of(labels)]

    def _ranks(self) -> tuple[Tensor, int]:
        """The number of each unit among those that it is joined with, and the greatest number of joined units."""
        if self._ranked is None or self._ranked[0] is not self.root:
            grouped = torch.argsort(self.root, stable=True)
            _, counts = torch.unique_consecutive(self.root[grouped], return_counts=True)
            rank = torch.empty_like(self.root)
            rank[grouped] = torch.arange(len(self.root), device="cpu") - torch.repeat_interleave(
                counts.cumsum(0) - counts, counts
            )
            self._ranked = self.root, rank, int(counts.max())
        return self._ranked[1:]

    def same_unit(self, a: Tensor, b: Tensor) -> Tensor:
        """True where two labels belong to the same joined unit, or both to none."""
        return self.root[units_of(a)] == self.root[units_of(b)]

    def join(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Join the units that coincide element by element, where the pairing is one to one.

        Returns:
            The units of ``a``, and those of ``b``, that coincide with several others; these are not joined.
        """
        a, b = broadcast(self.root[units_of(a)], self.root[units_of(b)])
        pairs = torch.stack([a.flatten(), b.flatten()], 1)
        pairs = _distinct(pairs[(pairs > 0).all(1) & (pairs[:, 0] != pairs[:, 1])], dim=0)
        left, right = pairs.unbind(1)
        on_both_sides = torch.isin(left, right) | torch.isin(right, left)
        left_repeated, right_repeated = _is_repeated(left) | on_both_sides, _is_repeated(right) | on_both_sides
        one_to_one = ~left_repeated & ~right_repeated
        new_root = torch.arange(len(self.root), device="cpu")
        new_root[right[one_to_one]] = left[one_to_one]
        self.root = new_root[self.root]
        return left[left_repeated], right[right_repeated]

    def join_summands(self, a: Tensor, b: Tensor) -> None:
        """Join the units that coincide, and give them one activation: that of their sum."""
        self.join(a, b)
        a, b = (units_of(labels).flatten() for labels in broadcast(a, b))
        same = (a > 0) & (b > 0) & (self.root[a] == self.root[b])
        new_sum = torch.arange(len(self.sum), device="cpu")
        new_sum[self.sum[b[same]]] = self.sum[a[same]]
        self.sum = new_sum[self.sum]


def _distinct(values: Tensor, dim: int | None = None) -> Tensor:
    found: Tensor = torch.unique(values, dim=dim)
    return found


def _is_repeated(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    repeated: Tensor = counts[inverse] > 1
    return repeated
