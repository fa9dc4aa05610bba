"""The members' losses, one number each. Each member's gradient is that of its own loss alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gnt.learners._evaluated import BackwardStart, check_loss
from gnt.learners._loss_and_optimizer import IGNORED_TARGET, Loss


def member_losses(loss: Loss, output: Tensor, y: Tensor) -> Tensor:
    """The loss of each member, (members,); a callable is called once for each member."""
    if loss is F.mse_loss:
        _check_mse(output, y)
        losses = (output - y).square().flatten(1).mean(1)
        check_loss(losses, output)
        return losses
    losses = _cross_entropy(output, y) if loss is F.cross_entropy else _one_by_one(loss, output, y)
    check_loss(losses, output)
    return losses


def losses_and_start(loss: Loss, output: Tensor, y: Tensor) -> tuple[Tensor, BackwardStart]:
    """The loss of each member, (members,), detached, and where the backward pass starts."""
    if loss is not F.mse_loss or not output.requires_grad or output.is_complex() or y.is_complex():
        losses = member_losses(loss, output, y)
        return losses.detach(), BackwardStart(losses, torch.ones_like(losses))
    _check_mse(output, y)
    difference = output.detach() - y
    numel = difference[0].numel()
    # the gradient with respect to the output in closed form: autograd would take several times as long
    return difference.square().flatten(1).mean(1), BackwardStart(output, difference * (2.0 / numel))


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
    losses = F.cross_entropy(output.flatten(0, 1), y.flatten(0, 1), reduction="none").view(len(y), -1)
    if y.is_floating_point():
        return losses.mean(1)
    return losses.sum(1) / (y.flatten(1).long() != IGNORED_TARGET).sum(1)


def _one_by_one(loss: Loss, output: Tensor, y: Tensor) -> Tensor:
    losses = [loss(own, target) for own, target in zip(output, y, strict=True)]
    for each in losses:
        if not isinstance(each, Tensor) or each.ndim != 0:
            got = f"shape {tuple(each.shape)}" if isinstance(each, Tensor) else type(each).__name__
            raise ValueError(f"loss must return a scalar tensor for each member, got {got}")
    return torch.stack(losses)
