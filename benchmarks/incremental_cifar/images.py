"""The images of the classes seen so far: split, normalised, concatenated by class."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets.labelled_images import LabelledImages, Splits
from ..errors import CannotRun


class ImageSet(NamedTuple):
    """Normalised images of (N, channels, size, size), and labels: positions of the classes in their order."""

    x: Tensor
    y: Tensor

    def up_to(self, classes: int) -> ImageSet:
        """The images of the first ``classes`` classes."""
        count = int((self.y < classes).sum())  # sorted by class
        return ImageSet(self.x[:count], self.y[:count])

    def to(self, device: str) -> ImageSet:
        """Move to a device."""
        return ImageSet(self.x.to(device), self.y.to(device))


class ImageSplits(NamedTuple):
    """Training, validation and test images."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet


def split(data: Splits, order: Tensor, train: int, validation: int, test: int, shrink: int = 1) -> ImageSplits:
    """Split the images of each class: the first ``train`` for training, the next ``validation`` for early stopping, and
    the first ``test`` of the test images. All are normalised by the training images' mean and standard deviation per
    channel.

    Args:
        data: all images.
        order: the order of the classes, (classes,).
        train, validation, test: number of images of each class.
        shrink: each square of ``shrink`` x ``shrink`` pixels becomes one pixel, their mean.

    Raises:
        CannotRun: a class has fewer images.
    """
    train_x, validation_x = [], []
    for one in _each(data.train, order, train + validation, "train"):
        train_x.append(one[:train])
        validation_x.append(one[train:])
    parts = [torch.stack(train_x), torch.stack(validation_x), torch.stack(_each(data.test, order, test, "test"))]
    parts = [F.avg_pool2d(part.flatten(0, 1), shrink) if shrink > 1 else part.flatten(0, 1) for part in parts]
    mean = parts[0].mean((0, 2, 3), keepdim=True)
    deviation = parts[0].std((0, 2, 3), keepdim=True, correction=0)
    counts = (train, validation, test)
    return ImageSplits(
        *(
            ImageSet((part - mean) / deviation, torch.arange(len(order)).repeat_interleave(count))
            for part, count in zip(parts, counts, strict=True)
        )
    )


def _each(images: LabelledImages, order: Tensor, count: int, use: str) -> list[Tensor]:
    found = []
    for label in order.tolist():
        own = images.of_class(label)
        if len(own) < count:
            raise CannotRun(f"class {label} has {len(own)} images to {use}, fewer than the {count} asked for.")
        found.append(LabelledImages(own.images[:count], own.labels[:count], own.white).in_unit_range())
    return found
