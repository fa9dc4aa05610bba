"""Random augmentation of training images: flip, crop, rotation."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class AugmentationDraws(NamedTuple):
    """The random numbers that determine the augmentation of a batch of N images."""

    flip: Tensor
    """bool of (N,): whether to flip horizontally."""
    top: Tensor
    """int64 of (N,): first row of the crop from the padded image."""
    left: Tensor
    """int64 of (N,): first column of the crop."""
    degrees: Tensor
    """float32 of (N,): angle of the counter-clockwise rotation."""


def draw_augmentation(
    count: int, generator: torch.Generator, padding: int = 4, degrees: float = 15.0
) -> AugmentationDraws:
    """Flip with probability 1/2; each of the (2 padding + 1)^2 crops equally likely; rotation uniform in [0,
    ``degrees``].
    """
    flip = torch.rand(count, generator=generator) < 0.5
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator)
    return AugmentationDraws(flip, top, left, degrees * torch.rand(count, generator=generator))


def augment(images: Tensor, draws: AugmentationDraws, padding: int = 4) -> Tensor:
    """Each image of (N, channels, size, size) flipped, then padded by reflection and cropped, then rotated about its
    centre. A pixel of the result has the value of the nearest source pixel, or 0 if that is outside.

    Images should be normalised, so that 0 is the mean. The result is on the device of ``images``; ``draws`` may be on
    another.
    """
    count, channels, size, _ = images.shape
    flip, top, left, degrees = (part.to(images.device) for part in draws)
    images = torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)
    padded = F.pad(images, (padding,) * 4, mode="reflect")
    y, x = _source_pixels(size, degrees)  # for each pixel, its source in the crop
    inside = (y >= 0) & (y < size) & (x >= 0) & (x < size)
    y, x = y.clamp(0, size - 1) + top.view(-1, 1, 1), x.clamp(0, size - 1) + left.view(-1, 1, 1)
    where = (y * (size + 2 * padding) + x).view(count, 1, -1).expand(-1, channels, -1)
    taken = padded.flatten(2).gather(2, where).view(count, channels, size, size)
    return taken * inside[:, None]


def _source_pixels(size: int, degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column, (N, size, size), of the source of each pixel for a counter-clockwise rotation by ``degrees``;
    they may be outside the image.
    """
    offset = torch.arange(size, device=degrees.device, dtype=degrees.dtype) - (size - 1) / 2
    down, right = offset.view(1, -1, 1), offset.view(1, 1, -1)
    angle = (degrees * (math.pi / 180)).view(-1, 1, 1)
    cos, sin = angle.cos(), angle.sin()
    rows = right * sin + down * cos
    columns = right * cos - down * sin
    return tuple((part + (size - 1) / 2).round().long() for part in (rows, columns))  # type: ignore[return-value]
