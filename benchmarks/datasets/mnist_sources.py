"""MNIST or Fashion-MNIST, from wherever they are."""

from __future__ import annotations

from pathlib import Path

from ..errors import CannotRun
from .idx_files import fashion_mnist, idx_folder
from .labelled_images import Splits
from .torchvision_loader import torchvision_images


def mnist_or_fashion(source: str, folder: str) -> Splits:
    """Training and test images.

    Args:
        source: "mnist" or "fashion".
        folder: four IDX files, or torchvision's folder; "": Debian's package of Fashion-MNIST.

    Raises:
        CannotRun: the data are missing or damaged.
    """
    if folder and not Path(folder).is_dir():
        raise CannotRun(f"--data {folder}: there is no such folder")
    if source == "fashion":
        return idx_folder(folder) if folder else fashion_mnist()
    if not folder:
        raise CannotRun(
            "MNIST's 70,000 images are read from a folder: give it with --data. To download it: "
            "python -c \"from torchvision.datasets import MNIST; MNIST('data', download=True)\", then --data data"
        )
    if any(Path(folder).glob("train-images-idx3-ubyte*")):
        return idx_folder(folder)
    return torchvision_images("MNIST", folder)
