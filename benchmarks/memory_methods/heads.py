"""A network that is told the task: hidden layers that all tasks share, and an output layer for each task."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt

from .scenario import Scenario


class TaskHeads(nn.Module):
    """A network whose last layer is replaced by one for each task.

    A head computes the outputs that belong to its task; where tasks share all outputs, it has all of them.

    Args:
        net: a Sequential that ends with a linear layer.
        scenario: number of tasks, and which outputs belong to each.

    Attributes:
        task: the task whose outputs are computed; None: those of all heads, one after the other.

    Shape:
        (batch, inputs) -> (batch, outputs). Outputs that belong to other tasks than the present one are 0.
    """

    def __init__(self, net: nn.Module, scenario: Scenario) -> None:
        super().__init__()
        *hidden, last = net.children()
        self.hidden = nn.Sequential(*hidden)
        self._own = [scenario.own_outputs(task) for task in range(scenario.tasks)]
        sizes = [last.out_features if own is None else own.stop - own.start for own in self._own]
        self.heads = gnt.MultiHead(last.in_features, sizes)  # type: ignore[arg-type]
        self.task: int | None = 0
        self._scenario = scenario
        self._groups: gnt.Groups | None = None  # found once: they do not change

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of the task."""
        features = self.hidden(x)
        if self.task is None:
            return torch.cat([self.heads(features, task) for task in range(len(self._own))], -1)
        output = self.heads(features, self.task)
        return output if self._own[self.task] is None else in_place(output, self.task, self._scenario)

    def groups(self) -> gnt.Groups:
        """The hidden units, which the heads of all tasks read."""
        if self._groups is None:
            first = next(layer for layer in self.hidden if isinstance(layer, nn.Linear))
            with outputs_of(self, None):
                self._groups = gnt.trace(self, torch.zeros(2, first.in_features))
        return self._groups


@contextlib.contextmanager
def outputs_of(net: Any, task: int | None) -> Iterator[None]:
    """Context in which a network that is told the task computes the outputs of a task; None: those of all heads."""
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
