"""ResNet-18 for small images, of any width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(before, channels, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 1), nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) to (N, channels, H / stride, W / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 (He et al., 2016) with a 3x3 stem and without max-pooling. Its four stages of two blocks have
    ``width``, 2, 4 and 8 times ``width`` channels, and each of the last three halves the resolution; then global
    average pooling and head.

    Weights of convolutions and head are Kaiming-normal, biases zero.
    """

    def __init__(self, channels: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.conv, self.bn = _conv(channels, width, 1), nn.BatchNorm2d(width)
        blocks, before = [], width
        for stage in range(4):
            for stride in (1 if stage == 0 else 2, 1):
                blocks.append(Block(before, width * 2**stage, stride))
                before = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, classes)
        self.apply(reset)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of (N, classes)."""
        h = self.blocks(F.relu(self.bn(self.conv(x))))
        logits: Tensor = self.head(h.mean((2, 3)))
        return logits


def reset(module: nn.Module) -> None:
    """Draw new parameters for a convolution, linear or batch norm layer."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()


def _conv(before: int, channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
