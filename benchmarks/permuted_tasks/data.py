"""The images of permuted tasks."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from ..datasets import LabelledImages, mnist_images, mnist_or_fashion
from ..errors import CannotRun

_CHOICE_SEED: Final = 20  # fixed: the images are the same for all seeds of a run


class FlatImages(NamedTuple):
    """Images (n, pixels) in [0, 1], and their classes (n,)."""

    images: Tensor
    labels: Tensor


def load_images(source: str, folder: str, train: int, test: int) -> tuple[FlatImages, FlatImages]:
    """Training and test images in random order; always the same.

    Raises:
        CannotRun: the data are missing, or have fewer images.
    """
    if source == "digits" and not folder:
        every = _chosen(mnist_images(), train + test, "--train and --test together")
        return FlatImages(*(part[:train] for part in every)), FlatImages(*(part[train:] for part in every))
    data = mnist_or_fashion("mnist" if source == "digits" else source, folder)
    return _chosen(data.train, train, "--train"), _chosen(data.test, test, "--test")


def _chosen(data: LabelledImages, count: int, what: str) -> FlatImages:
    if count > len(data):
        raise CannotRun(f"{what} must be at most {len(data)}, the number of images, got {count}")
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(_CHOICE_SEED))[:count]
    return FlatImages(data.in_unit_range().flatten(1)[chosen], data.labels[chosen])
