"""`own_gradients`: gradients in memory of their own, as a backward pass leaves them in ``.grad``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor

Gradient = TypeVar("Gradient", Tensor, Tensor | None)


def own_gradients(gradients: Iterable[Gradient]) -> list[Gradient]:
    """The gradients, with a copy of each that shares memory with another one or with itself.

    `torch.autograd.grad` and compiled graphs return one tensor for parameters that are added to each other, and tensors
    whose entries lie in one place. What changes ``.grad`` in place would change those twice, or fail.
    """
    seen: set[int] = set()
    own: list[Gradient] = []
    for each in gradients:
        if each is not None and each.layout is torch.strided:
            place = each.untyped_storage().data_ptr()
            each = each.clone() if place in seen or 0 in each.stride() else each
            seen.add(place)
        own.append(each)
    return own
