"""Training of tasks under a `HAT`, for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import mlp
from tests.twins import hat as twin

FAST = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}


def make_hat(net: nn.Module | None = None, kind: type[gnt.HAT] = gnt.HAT, **given: Any) -> Any:
    """A network, a mask over the units that `walk` finds in it, and an optimizer that moves each weight."""
    net = mlp() if net is None else net
    hat = kind(net, gnt.walk(net), **{"sparsity": 0.1, "generator": torch.Generator().manual_seed(7), **given})
    return net, hat, torch.optim.SGD(net.parameters(), **FAST)


def learn_task(
    hat: gnt.HAT, optimizer: torch.optim.Optimizer, task: Any, shape: tuple[int, ...] = (4,), *, steps: int = 4
) -> None:
    """Train a task of random regression, of two epochs."""
    hat.begin(task, optimizer, steps_per_epoch=max(steps // 2, 1))
    learn_steps(hat, optimizer, range(steps), shape)
    hat.end()


def learn_steps(hat: gnt.HAT, optimizer: torch.optim.Optimizer, steps: range, shape: tuple[int, ...] = (4,)) -> None:
    """Steps of the open task."""
    for step in steps:
        optimizer.zero_grad()
        loss(hat, step, shape).backward()
        optimizer.step()


def loss(hat: gnt.HAT, step: int, shape: tuple[int, ...] = (4,), samples: slice = slice(None)) -> Tensor:
    """The loss of a step, with the penalty; that of a part of the samples adds up to that of all."""
    x = inputs(hat.model, shape, seed=100 * len(hat.tasks) + step)
    part = x[samples]
    return (hat.model(part).flatten(1) - part.flatten(1)[:, :1]).square().mean() * len(part) / len(x) + hat.penalty()


def inputs(model: nn.Module, shape: tuple[int, ...] = (4,), seed: int = 3, n: int = 6) -> Tensor:
    """A batch in the model's dtype."""
    dtype = next(model.parameters()).dtype
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@torch.no_grad()
def outputs(hat: gnt.HAT, x: Tensor) -> dict[Any, Tensor]:
    """The outputs of the model under each ended task, in evaluation mode; mode and mask are as before afterwards."""
    training = hat.model.training
    hat.model.eval()
    found = {}
    for task in hat.tasks:
        with hat.use(task):
            # -0 becomes 0: a free unit contributes 0 times a weight of either sign
            found[task] = hat.model(x) + 0.0
    hat.model.train(training)
    return found


def frozen_elements(hat: gnt.HAT) -> dict[str, Tensor]:
    """For each parameter which of its elements must not change, from the slow twin."""
    frozen = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in hat.model.named_parameters()}
    masks = list(hat.masks.values())
    for weight in twin.weights(hat.model, hat.groups) if masks else ():
        frozen[weight.parameter][weight.position] = twin.rate_of_hat(weight, masks) == 0
    return frozen
