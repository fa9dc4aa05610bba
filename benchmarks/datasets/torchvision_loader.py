"""Data sets that torchvision has in a folder; needs torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from ..errors import CannotRun
from .labelled_images import LabelledImages, Splits

NAMES: Final = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")


def torchvision_images(name: str, folder: str | Path) -> Splits:
    """A data set of torchvision.

    Args:
        name: one of `NAMES`.
        folder: torchvision's ``root``.

    Raises:
        CannotRun: unknown name; torchvision is missing or broken; the data are not in the folder.
    """
    if name not in NAMES:
        raise CannotRun(f"unknown data set {name!r} of torchvision. Known: {', '.join(NAMES)}")
    dataset = getattr(_datasets(), name)
    try:
        return Splits(*(_labelled(dataset(str(folder), train=train)) for train in (True, False)))
    except (RuntimeError, OSError) as error:
        raise CannotRun(
            f"torchvision has no {name} in {folder} ({error}). To download it: "
            f'python -c "from torchvision.datasets import {name}; {name}({str(folder)!r}, download=True)"'
        ) from error


def _datasets() -> Any:
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise CannotRun(f"torchvision is not installed ({error}). To install it: pip install torchvision") from error
    except Exception as error:  # a torchvision built for another torch fails with various errors, such as RuntimeError
        raise CannotRun(
            f"torchvision is installed, but cannot be imported ({type(error).__name__}: {error}): it must be the one "
            f"built for torch {torch.__version__}. To install it: pip install --force-reinstall torchvision"
        ) from error
    return datasets


def _labelled(data: Any) -> LabelledImages:
    images = torch.as_tensor(data.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return LabelledImages(images, torch.as_tensor(data.targets).long())
