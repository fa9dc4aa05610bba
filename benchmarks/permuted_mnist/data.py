"""The images of Permuted MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from benchmarks.datasets import LabelledImages, fashion_mnist, idx_folder, mnist_images, torchvision_images
from benchmarks.errors import CannotRun

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
    if source == "digits":
        return mnist_images()
    if folder and not Path(folder).is_dir():
        raise CannotRun(f"--data {folder}: there is no such folder")
    if source == "fashion":
        return (idx_folder(folder) if folder else fashion_mnist()).train
    if not folder:
        raise CannotRun(
            "MNIST's 60,000 images are read from a folder: give it with --data. To download it: "
            "python -c \"from torchvision.datasets import MNIST; MNIST('data', download=True)\", then --data data"
        )
    if any(Path(folder).glob("train-images-idx3-ubyte*")):
        return idx_folder(folder).train
    return torchvision_images("MNIST", folder).train
