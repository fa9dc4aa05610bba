"""Labels: integer tensors that say which unit each element of a value belongs to, and what becomes of units.

A label is 0 where an element is nobody's, and otherwise the number of a unit. Labels are kept *compact*: a dimension
along which they do not vary has size 1. So they cost nothing on batches and images, and "do they vary along this
dimension?" is a look at the shape. Where a value holds the same units several times (``cat([relu(h), relu(-h)])``), the
bits above ``UNIT`` number the places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

UNIT = (1 << 32) - 1
Labels = Tensor | None  # None: all of it is nobody's


def compact(labels: Tensor) -> Labels:
    """Reduce every dimension along which the labels do not vary to size 1; None where all are 0."""
    for dim, size in enumerate(labels.shape):
        if size > 1:
            first = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == first).all()):
                labels = first
    return labels if labels.numel() and bool(labels.any()) else None


def full(labels: Labels, shape: Sequence[int]) -> Tensor:
    """Labels of the shape of their value."""
    known = torch.zeros((), dtype=torch.int64) if labels is None else labels
    return known.expand(tuple(shape))


def varies(labels: Tensor, dims: Iterable[int]) -> bool:
    """Whether compact labels vary along any of these dimensions."""
    return any(labels.shape[dim] > 1 for dim in dims)


def aligned(labels: Tensor, ndim: int) -> Tensor:
    """Compact labels as an operand that is broadcast to ``ndim`` dimensions."""
    return labels.reshape(*[1] * (ndim - labels.ndim), *labels.shape)


def spread(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two operands broadcast to one shape."""
    a, b = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
    return a, b


def distinct(values: Tensor, dim: int | None = None) -> Tensor:
    """Sorted distinct values."""
    found: Tensor = torch.unique(values, dim=dim)
    return found


def units_in(labels: Tensor) -> Tensor:
    """The distinct units that have a part in a value."""
    units = distinct(labels & UNIT)
    return units[units > 0]


class Units:
    """All units of a graph: which of them are one, what they pass first, and why some are refused.

    Units are numbered from 1. Joined units (the gate row and the up row of SwiGLU) share a root.
    """

    def __init__(self) -> None:
        self.root = torch.zeros(1, dtype=torch.int64)
        self.refusal = torch.zeros(1, dtype=torch.int64)  # of each unit: a place in `reasons`, 0 where there is none
        self.nonlinearity = torch.zeros(1, dtype=torch.int64)  # a place in `kinds`, 0 where none was seen
        self.reasons: list[str] = [""]
        self.kinds: list[object] = [None]

    def new(self, count: int) -> Tensor:
        """Labels of ``count`` new units."""
        first = len(self.root)
        labels = torch.arange(first, first + count)
        self.root = torch.cat([self.root, labels])
        self.refusal = torch.cat([self.refusal, torch.zeros(count, dtype=torch.int64)])
        self.nonlinearity = torch.cat([self.nonlinearity, torch.zeros(count, dtype=torch.int64)])
        return labels

    def refuse(self, labels: Labels, reason: str) -> None:
        """Note why the units of these labels cannot be replaced; of several reasons the first stays."""
        if labels is not None:
            units = units_in(labels)
            self.reasons.append(reason)
            self.refusal[units[self.refusal[units] == 0]] = len(self.reasons) - 1

    def note(self, labels: Labels, kind: object, *, over: Sequence[object] = ()) -> None:
        """Note the nonlinearity that units pass, for those that passed none yet, or one of ``over``."""
        if labels is not None:
            units = units_in(labels)
            if kind not in self.kinds:
                self.kinds.append(kind)
            free = self.nonlinearity[units] == 0
            for other in over:
                if other in self.kinds:
                    free |= self.nonlinearity[units] == self.kinds.index(other)
            self.nonlinearity[units[free]] = self.kinds.index(kind)

    def values(self, labels: Tensor) -> Tensor:
        """A number for each of the different values that one unit has: another place, or another of its joined rows."""
        grouped = torch.argsort(self.root, stable=True)
        _, counts = torch.unique_consecutive(self.root[grouped], return_counts=True)
        rank = torch.empty_like(self.root)
        rank[grouped] = torch.arange(len(self.root)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        return (labels >> 32) * int(counts.max()) + rank[labels & UNIT]

    def same(self, a: Tensor, b: Tensor) -> Tensor:
        """Where labels belong to the same unit (or both to nobody), as far as units are joined by now."""
        return self.root[a & UNIT] == self.root[b & UNIT]

    def join(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Make units that meet element by element one unit each, where that is one to one.

        Returns the units of ``a`` and those of ``b`` that meet several others, or each other: these are not joined.
        """
        a, b = spread(self.root[a & UNIT], self.root[b & UNIT])
        pairs = torch.stack([a.flatten(), b.flatten()], 1)
        pairs = distinct(pairs[(pairs > 0).all(1) & (pairs[:, 0] != pairs[:, 1])], dim=0)
        left, right = pairs.unbind(1)
        crossed = torch.isin(left, right) | torch.isin(right, left)
        several, of_several = _repeated(left) | crossed, _repeated(right) | crossed
        single = ~several & ~of_several
        onto = torch.arange(len(self.root))
        onto[right[single]] = left[single]
        self.root = onto[self.root]
        return left[several], right[of_several]


def _repeated(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    more: Tensor = counts[inverse] > 1
    return more
