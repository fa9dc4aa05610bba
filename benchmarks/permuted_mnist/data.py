"""The images of Permuted MNIST."""

from __future__ import annotations

from typing import Final

import torch

from ..datasets import LabelledImages, mnist_images, mnist_or_fashion
from ..errors import CannotRun

_CHOICE_SEED: Final = 784  # fixed: the images are the same for all seeds of a run


def load_images(source: str, folder: str, count: int) -> LabelledImages:
    """``count`` images of a source in random order; always the same.

    Raises:
        CannotRun: the data are missing, or have fewer images.
    """
    data = _all(source, folder)
    if count > len(data):
        raise CannotRun(f"--images must be at most {len(data)}, the number of images of {source}, got {count}")
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(_CHOICE_SEED))[:count]
    return LabelledImages(data.images[chosen], data.labels[chosen], data.white)


def _all(source: str, folder: str) -> LabelledImages:
    return mnist_images() if source == "digits" else mnist_or_fashion(source, folder).train
