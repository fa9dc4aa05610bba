"""A network whose unit groups are not in the order of computation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gated(nn.Module):
    """Units with a gate that comes first; the layer below them is a group that comes second."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.low, self.high, self.out = (nn.Linear(*n) for n in ((3, 5), (3, 4), (4, 5), (5, 2)))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        return self.out(self.high(torch.relu(self.low(x))) * gate)
