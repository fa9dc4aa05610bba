"""How often a network is right on images that it does not learn from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BATCH = 500  # bounds the memory


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor, outputs: int | None = None) -> float:
    """Share of the images to which the network, in evaluation mode, gives the right label.

    The network is left in training mode. ``outputs``: only the first so many are compared; None: all.

    >>> net = nn.Identity()
    >>> accuracy(net, torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]), torch.tensor([1, 0]), outputs=2)
    1.0
    """
    net.eval()
    batches = zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True)
    right = sum(int((net(some)[:, :outputs].argmax(1) == labels).sum()) for some, labels in batches)
    net.train()
    return right / len(x)
