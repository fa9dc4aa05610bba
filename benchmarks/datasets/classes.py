"""Access to data class by class."""

from __future__ import annotations

from typing import Protocol

import torch

from .labelled_images import LabelledImages, Splits


class ClassSource(Protocol):
    """Data that can be read one class at a time: `InMemoryClasses`, `ClassFolder`."""

    def __len__(self) -> int:
        """The number of classes."""

    def splits(self, label: int) -> Splits:
        """The training and test images of one class."""


class InMemoryClasses:
    """Class-by-class access to a data set in memory.

    >>> images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
    >>> data = LabelledImages(images, torch.tensor([0, 1, 1, 0]))
    >>> classes = InMemoryClasses(Splits(train=data, test=data))
    >>> len(classes), classes.splits(1).train.images.view(-1)
    (2, tensor([1, 2], dtype=torch.uint8))
    """

    def __init__(self, data: Splits) -> None:
        self._data = data
        self._count = int(data.train.labels.max()) + 1

    def __len__(self) -> int:
        return self._count

    def splits(self, label: int) -> Splits:
        """The training and test images of one class."""
        return Splits(*(part.of_class(label) for part in self._data))


def sample_images(images: LabelledImages, count: int, generator: torch.Generator) -> LabelledImages:
    """``count`` of the images, drawn without replacement; all of them, in order, if ``count`` is their number.

    Raises:
        ValueError: ``count`` exceeds the number of images.
    """
    if count > len(images):
        raise ValueError(f"count must be at most {len(images)}, the number of images, got {count}")
    if count == len(images):
        return images
    chosen = torch.randperm(len(images), generator=generator)[:count]
    return LabelledImages(images.images[chosen], images.labels[chosen], images.white)
