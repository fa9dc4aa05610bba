"""Images with permuted pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..seeds import stream


def permutation(number: int, seed: int, pixels: int) -> Tensor:
    """The permutation of a task. All permutations are equally likely, and tasks are independent. (The authors permute
    the previous task's images, which gives the same distribution.)
    """
    return torch.randperm(pixels, generator=stream(seed, f"permutation of task {number}"))


class PermutedImages:
    """Images that are permuted when they are indexed, so that seeds and tasks share one copy in memory.

    Args:
        images: uint8 of (n, pixels), 0 to 255.
        order: index of the source pixel of each pixel, (pixels,).
        centred: whether values are in [-1, 1]; otherwise in [0, 1].

    >>> images = torch.tensor([[0, 51, 255], [255, 0, 0]], dtype=torch.uint8)
    >>> PermutedImages(images, torch.tensor([2, 0, 1]), centred=False)[torch.tensor([0])]
    tensor([[1.0000, 0.0000, 0.2000]])
    """

    def __init__(self, images: Tensor, order: Tensor, *, centred: bool) -> None:
        self._images, self._order, self._centred = images, order.to(images.device), centred

    def __getitem__(self, chosen: Tensor, /) -> Tensor:
        """float32 of (len(chosen), pixels)."""
        values = self._images[chosen][:, self._order].float() / 255
        return (values - 0.5) / 0.5 if self._centred else values
