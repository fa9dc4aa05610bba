"""The losses of all members: one number each, and the tensor at which the backward pass begins.

The gradient of each member is that of its own mean loss: what the others lose does not touch it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


class Losses(NamedTuple):
    """Losses (members,), detached; ``root.backward(gradient)`` gives every member the gradient of its own."""

    losses: Tensor
    root: Tensor
    gradient: Tensor


def loss_of_each(loss: Loss, output: Tensor, y: Tensor) -> Tensor:
    """One loss a member, (members,); ``loss`` is called for each member, unless it is known how to do all at once."""
    if loss is F.mse_loss:
        _check_mse(output, y)
        return (output - y).square().flatten(1).mean(1)
    each = _cross_entropy(output, y) if loss is F.cross_entropy else _one_by_one(loss, output, y)
    if not each.requires_grad:
        raise ValueError("loss must depend on the output: it has no grad_fn, so there is nothing to learn from")
    return each


def losses(loss: Loss, output: Tensor, y: Tensor) -> Losses:
    """As `loss_of_each`, ready for the backward pass."""
    if loss is not F.mse_loss:
        each = loss_of_each(loss, output, y)
        return Losses(each.detach(), each, torch.ones_like(each))
    _check_mse(output, y)
    difference = output.detach() - y
    numel = difference[0].numel()
    # the derivative of the mean is written down: autograd would take several times as long for it
    return Losses(difference.square().flatten(1).mean(1), output, difference * (2.0 / numel))


def _check_mse(output: Tensor, y: Tensor) -> None:
    if output.shape != y.shape:
        raise ValueError(
            f"mse compares output and target element by element: output {tuple(output.shape)}, y {tuple(y.shape)}"
        )


def _cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    if output.shape[:2] != y.shape[:2]:
        raise ValueError(
            f"cross_entropy needs a target for each sample of each member: output {tuple(output.shape)}, "
            f"y {tuple(y.shape)}"
        )
    each = F.cross_entropy(output.flatten(0, 1), y.flatten(0, 1), reduction="none").view(len(y), -1)
    if y.is_floating_point():
        return each.mean(1)
    return each.sum(1) / (y.flatten(1) != -100).sum(1)  # torch's mark for targets that do not count


def _one_by_one(loss: Loss, output: Tensor, y: Tensor) -> Tensor:
    own = [loss(each, target) for each, target in zip(output, y, strict=True)]
    if not isinstance(own[0], Tensor) or own[0].ndim != 0:
        got = f"shape {tuple(own[0].shape)}" if isinstance(own[0], Tensor) else type(own[0]).__name__
        raise ValueError(f"loss must return a scalar tensor for each member, got {got}")
    return torch.stack(own)
