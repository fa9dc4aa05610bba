"""The results of forward and loss, and of the backward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class BackwardStart(NamedTuple):
    """Where the backward pass starts.

    Attributes:
        tensor: the tensor at which it starts.
        gradient: the gradient of the sum of all losses with respect to ``tensor``; None if ``tensor`` is the loss.
    """

    tensor: Tensor
    gradient: Tensor | None = None

    def backward(self, penalty: Tensor | None = None) -> None:
        """Compute the gradients, with those of a penalty that is added to the loss."""
        if penalty is None or not penalty.requires_grad:
            self.tensor.backward(self.gradient)
        else:
            torch.autograd.backward([self.tensor, penalty], [self.gradient, None])


class Evaluated(NamedTuple):
    """The result of forward and loss.

    Attributes:
        output: the network's output.
        losses: the loss or losses, detached.
        start: where the backward pass starts.
        features: the features of this forward.
    """

    output: Tensor
    losses: Tensor
    start: BackwardStart
    features: Any


class Differentiated(NamedTuple):
    """The result of forward, loss and backward, whose gradients are in ``.grad``.

    Attributes:
        output: the network's output, detached.
        losses: the loss or losses, detached.
        features: the features of this forward.
    """

    output: Tensor
    losses: Tensor
    features: Any


def check_loss(loss: Tensor, output: Tensor) -> None:
    """Raise ValueError for losses without a gradient."""
    if not loss.dtype.is_floating_point:
        raise ValueError(f"loss must return real floating-point numbers, got {loss.dtype}")
    if loss.requires_grad:
        return
    cause = "is computed from a detached copy of it, or without torch operations"
    if not torch.is_grad_enabled():
        cause = "was computed while gradients are disabled (torch.no_grad)"
    elif not output.requires_grad:
        cause = "gets no gradient to it: no parameter that the output depends on has requires_grad=True"
    raise ValueError(
        f"loss must depend on the output: it has no grad_fn, so there is nothing to learn from. The loss {cause}"
    )
