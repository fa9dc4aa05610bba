"""A network with an output layer for each task."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from benchmarks.memory_methods.scenario import Scenario


class HeadPerTask(nn.Module):
    """A network whose last layer is replaced by one for each task, of the outputs that belong to the task.

    Args:
        net: a Sequential that ends with a linear layer.
        scenario: each task has outputs of its own.

    Attributes:
        task: the task whose outputs are computed; all others are 0.

    Shape:
        (batch, inputs) -> (batch, outputs of all tasks).
    """

    def __init__(self, net: nn.Module, scenario: Scenario) -> None:
        super().__init__()
        *hidden, last = net.children()
        self.hidden = nn.Sequential(*hidden)
        self.heads = gnt.MultiHead(last.in_features, [_size(scenario, task) for task in range(scenario.tasks)])  # type: ignore[arg-type]
        self.task, self._scenario = 0, scenario

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of the task at their places among those of all tasks."""
        return in_place(self.heads(self.hidden(x), self.task), self.task, self._scenario)


@contextlib.contextmanager
def outputs_of(net: Any, task: int) -> Iterator[None]:
    """Context in which a network that is told the task computes the outputs of a task."""
    before, net.task = net.task, task
    try:
        yield
    finally:
        net.task = before


def in_place(output: Tensor, task: int, scenario: Scenario) -> Tensor:
    """Outputs of a task at their places among those of all tasks, (..., outputs); the others are 0."""
    own = scenario.own_outputs(task)
    assert own is not None
    return F.pad(output, (own.start, scenario.outputs - own.stop))


def _size(scenario: Scenario, task: int) -> int:
    own = scenario.own_outputs(task)
    assert own is not None
    return int(own.stop - own.start)
