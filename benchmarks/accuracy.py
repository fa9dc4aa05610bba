"""Classification accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BATCH = 500  # images evaluated at once, to limit memory


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor, outputs: int | None = None) -> float:
    """Share of the images that the network classifies correctly in evaluation mode. Leaves it in training mode.

    Args:
        net: returns logits (N, classes).
        x, y: images and labels.
        outputs: number of classes to compare, the first ones; None: all.

    >>> net = nn.Identity()
    >>> accuracy(net, torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]), torch.tensor([1, 0]), outputs=2)
    1.0
    """
    net.eval()
    batches = zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True)
    right = sum(int((net(some)[:, :outputs].argmax(1) == labels).sum()) for some, labels in batches)
    net.train()
    return right / len(x)
