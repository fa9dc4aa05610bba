"""The images of each night."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from ..datasets import LabelledImages, fashion_mnist, idx_folder, mnist_images
from ..errors import CannotRun
from ..seeds import stream
from .settings import Settings

_TEST_SEED: Final = 1910  # fixed: the digits to test on are the same for all seeds


class Nights(NamedTuple):
    """Images, float32 of (N, pixels) in [0, 1], and labels of (N,), in the order in which they arrive; and of a night
    after the last one, which no network is trained on.
    """

    x: Tensor
    y: Tensor
    later_x: Tensor
    later_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load_nights(settings: Settings, seed: int) -> Nights:
    """The images of all nights in the seed's order, and the test images.

    Raises:
        CannotRun: the data are missing, or there are too few images.
    """
    train, test = _splits(settings)
    needed = (settings.nights + 1) * settings.images
    for name, count, part in (("--test", settings.test, test), ("--nights x --images", needed, train)):
        if count > len(part):
            and_later = " (with a night for the plasticity check)" if part is train else ""
            raise CannotRun(f"{name} must be at most {len(part)}, the images of the data, got {count}{and_later}")
    order = torch.randperm(len(train), generator=stream(seed, "order of arrival"))[:needed]
    (x, y), (test_x, test_y) = _chosen(train, order), _chosen(test, torch.arange(settings.test))
    last = settings.nights * settings.images
    return Nights(x[:last], y[:last], x[last:], y[last:], test_x, test_y)


def _chosen(data: LabelledImages, order: Tensor) -> tuple[Tensor, Tensor]:
    part = LabelledImages(data.images[order], data.labels[order], data.white)
    return part.in_unit_range().flatten(1), part.labels


def _splits(settings: Settings) -> tuple[LabelledImages, LabelledImages]:
    if settings.source == "fashion":
        train, test = idx_folder(settings.data) if settings.data else fashion_mnist()
        return train, test
    every = mnist_images()
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(_TEST_SEED))
    parts = [order[settings.test :], order[: settings.test]]
    train, test = (LabelledImages(every.images[part], every.labels[part], every.white) for part in parts)
    return train, test
