"""A network whose only head can grow: `Growing`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gnt


class Growing(nn.Module):
    """A `MultiHead` of two outputs on four inputs, always with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = gnt.MultiHead(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.heads(x)
