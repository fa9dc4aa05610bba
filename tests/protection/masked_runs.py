"""Training of tasks under a `HAT`, for tests."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

import gnt


def learn_task(
    hat: gnt.HAT,
    optimizer: torch.optim.Optimizer,
    task: Any,
    shape: tuple[int, ...],
    *,
    steps: int = 4,
    end: bool = True,
) -> None:
    """Train a task of random regression, of two epochs."""
    hat.begin(task, optimizer, steps_per_epoch=max(steps // 2, 1))
    learn_steps(hat, optimizer, task, shape, range(steps))
    if end:
        hat.end()


def learn_steps(
    hat: gnt.HAT, optimizer: torch.optim.Optimizer, task: Any, shape: tuple[int, ...], steps: range
) -> None:
    """Steps of the open task."""
    for i in steps:
        optimizer.zero_grad()
        loss(hat, task, shape, i).backward()
        optimizer.step()


def loss(hat: gnt.HAT, task: Any, shape: tuple[int, ...], step: int, samples: slice = slice(None)) -> Tensor:
    """The loss of a step, with the penalty."""
    x = inputs(hat.model, shape, seed=hash((task, step)) % 2**16)[samples]
    return (
        (hat.model(x) - 1.0) * torch.linspace(-1, 1, len(x), dtype=x.dtype).view(-1, *(1,) * (hat.model(x).ndim - 1))
    ).square().mean() + hat.penalty()


def inputs(model: nn.Module, shape: tuple[int, ...], seed: int = 3, n: int = 6) -> Tensor:
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
            found[task] = hat.model(x)
    hat.model.train(training)
    return found


def frozen_elements(hat: gnt.HAT, groups: Any) -> dict[str, Tensor]:
    """A slow count of the elements that must not change: for each weight whether both of its units are used.

    Inputs of the first layer, outputs of the last and layers of no group count as used.
    """
    result = {}
    for name, parameter in hat.model.named_parameters():
        sides: list[dict[tuple[int, ...], bool]] = [{}, {}]
        for group in groups:
            used = torch.stack([hat.masks[task][group.name] for task in hat.tasks]).any(0) if hat.tasks else None
            for slot in group.slots:
                for key in slot.module._parameters:
                    if slot.module._parameters[key] is not parameter or (slot in group.outgoing and key != "weight"):
                        continue
                    for unit in range(group.num_units):
                        touched = torch.zeros(parameter.shape)
                        slot.fill_(touched, torch.tensor([unit]), 1.0)
                        for position in touched.nonzero().tolist():
                            value = used is not None and bool(used[unit])
                            sides[slot in group.outgoing][tuple(position)] = value
        frozen = torch.zeros(parameter.shape, dtype=torch.bool)
        for position in itertools.product(*map(range, parameter.shape)):
            frozen[position] = bool(hat.tasks) and all(side.get(position, True) for side in sides)
        result[name] = frozen
    return result
