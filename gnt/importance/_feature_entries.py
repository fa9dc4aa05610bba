"""Entries of the features that wait in a tap: which of them count, and which are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gnt.importance._training_forwards import BackwardMark, PastBackward

# a feature, its mark if a backward can be seen, and its version when it was recorded
Entry = tuple[Tensor, BackwardMark | PastBackward | None, int]
LinkedList = Any  # None, or (the latest feature, its mark, the list before it, its version)


def entries(pending: LinkedList) -> list[Entry]:
    """The entries of a linked list, oldest first."""
    found = []
    while pending is not None:
        feature, mark, pending, version = pending
        found.append((feature, mark, version))
    return found[::-1]


def is_intact(entry: Entry) -> bool:
    """True if a feature has the values with which it was recorded."""
    feature, _, version = entry
    return version < 0 or feature._version == version


def gradient_of(feature: Tensor, mark: BackwardMark | PastBackward) -> Tensor | None:
    """The gradient in the shape of the feature, which may be recorded in another one (flat, by a `CBPConv`)."""
    return None if mark.gradient is None else mark.gradient.reshape(feature.shape)


def counting(entries: list[Entry], only_trained: bool) -> list[Entry]:
    """The features that count.

    A forward that was differentiated with respect to its inputs before the training backward reached it is that of a
    gradient penalty. It counts only if there is no other forward.
    """
    if not only_trained:
        return [entry for entry in entries if (mark := entry[1]) is None or mark.trained or not mark.probed]
    trained = [entry for entry in entries if (mark := entry[1]) is None or mark.trained]
    return [entry for entry in trained if (mark := entry[1]) is None or not mark.probed] or trained


def without_duplicates(features: list[Tensor], copied: Mapping[int, Tensor]) -> list[Tensor]:
    """The features without those that are the same memory: consumers that read the same value in one forward.

    Each consumer has its own part of the gradient; the feature that stays has their sum.

    Args:
        features: the features.
        copied: by the id of a copy, what it is a copy of.
    """
    kept: dict[Any, Tensor] = {}
    for feature in features:
        first = kept.setdefault(_place(copied.get(id(feature), feature)), feature)
        if first is not feature and feature.grad is not None:
            part = feature.grad.reshape(first.shape)
            first.grad = part if first.grad is None else first.grad + part
    return list(kept.values())


def _place(feature: Tensor) -> Any:
    """The same for two features that are the same samples in the same memory."""
    if feature.__class__ is not Tensor:
        return id(feature)
    if feature.is_contiguous() and feature.ndim:  # one may be a view that joins dimensions of samples
        return feature.data_ptr(), feature.numel(), feature.shape[-1]
    return feature.data_ptr(), feature.shape, feature.stride()
