"""The common form of all image data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelledImages:
    """Images with one label each.

    Attributes:
        images: uint8 of (N, channels, height, width), 0 to ``white``.
        labels: int64 of (N,), from 0.
        white: the value of maximum brightness: 255, or 16 for scikit-learn's digits.

    >>> grey = LabelledImages(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3), torch.tensor([7]))
    >>> grey.in_unit_range().view(-1)
    tensor([0.0000, 0.2000, 1.0000])
    >>> len(grey), grey.of_class(7).labels
    (1, tensor([7]))
    """

    images: Tensor
    labels: Tensor
    white: int = 255

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images must be uint8 of (N, channels, height, width), got {images.dtype} of {tuple(images.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must be int64 of ({len(images)},), one per image, got {labels.dtype} of {tuple(labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def in_unit_range(self) -> Tensor:
        """The images as float32 in [0, 1]."""
        return self.images.float() / self.white

    def of_class(self, label: int) -> LabelledImages:
        """The images with this label, in order."""
        chosen = self.labels == label
        return LabelledImages(self.images[chosen], self.labels[chosen], self.white)


class Splits(NamedTuple):
    """A data set with training and test images."""

    train: LabelledImages
    test: LabelledImages
