"""The network of Dohare et al.: three convolutions with max-pooling, three linear layers."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

KERNELS: Final = (5, 3, 3)
SMALLEST: Final = 24
"""Smallest image size for which the third pooling has an output."""


def make_net(channels: int, size: int, layer_norm: bool = False) -> nn.Sequential:
    """Convolutions of 32 (5x5), 64 (3x3) and 128 (3x3) channels, each with ReLU and 2x2 max-pooling; linear layers of
    128, 128 and 2 units. Torch's default initial weights.

    Args:
        channels, size: of the images, (channels, size, size).
        layer_norm: whether to normalise the inputs of each ReLU; over channels and positions for convolutions.

    Raises:
        ValueError: the images are too small for three convolutions.

    >>> sum(p.numel() for p in make_net(3, 32).parameters())
    177218
    """
    if size < SMALLEST:
        raise ValueError(f"size must be at least {SMALLEST}, got {size}")
    layers: list[nn.Module] = []
    before = channels
    for width, kernel in zip((32, 64, 128), KERNELS, strict=True):
        layers.append(nn.Conv2d(before, width, kernel))
        layers += [nn.GroupNorm(1, width)] * layer_norm
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        size = (size - kernel + 1) // 2
        before = width
    layers.append(nn.Flatten())
    before *= size**2
    for _ in range(2):
        layers.append(nn.Linear(before, 128))
        layers += [nn.LayerNorm(128)] * layer_norm
        layers.append(nn.ReLU())
        before = 128
    return nn.Sequential(*layers, nn.Linear(before, 2))


@torch.no_grad()
def zero_head(net: nn.Sequential) -> None:
    """Set weights and biases of the last layer to zero, as at the start of each task."""
    head = net[-1]
    assert isinstance(head, nn.Linear)
    head.weight.zero_()
    head.bias.zero_()
