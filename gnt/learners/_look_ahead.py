"""The outer loss of La-MAML: the loss on current and stored samples after some steps on the current ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gnt._utils.recording_switch import pause_recording
from gnt.learners._loss_and_optimizer import Loss

Batch = tuple[Tensor, Tensor]


def look_ahead_loss(
    net: nn.Module,
    loss: Loss,
    rates: Mapping[str, Tensor],
    steps: Sequence[Batch],
    batch: Batch,
    *,
    first_order: bool = False,
    after_each: bool = False,
) -> Tensor:
    """Return the loss on ``batch`` after a step of gradient descent on each of ``steps``.

    The steps start at the weights of the network. The loss is differentiable with respect to these and to the rates.
    Nothing is changed: the steps are made on other tensors, buffers are copied, and engines record no features.

    Args:
        net: the network.
        loss: (output, y) -> scalar.
        rates: the rate of each weight that is changed by the steps, by the names of parameters.
        steps: the batches (x, y) of the steps.
        batch: the batch (x, y) of the outer loss.
        first_order: treat the gradients of the steps as constants.
        after_each: the mean of the losses after each of the steps, in place of that after the last one.
    """
    parameters = dict(net.named_parameters())
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    fast: dict[str, Tensor] = {name: parameters[name] for name in rates}
    losses = []
    with pause_recording(), torch.enable_grad():
        for x, y in steps:
            value = loss(functional_call(net, {**fast, **buffers}, (x,)), y)
            gradients = torch.autograd.grad(value, list(fast.values()), create_graph=not first_order, allow_unused=True)
            fast = {
                name: weight if gradient is None else weight - rates[name] * gradient
                for (name, weight), gradient in zip(fast.items(), gradients, strict=True)
            }
            if after_each:
                losses.append(loss(functional_call(net, {**fast, **buffers}, (batch[0],)), batch[1]))
        if after_each:
            return torch.stack(losses).mean()
        return loss(functional_call(net, {**fast, **buffers}, (batch[0],)), batch[1])
