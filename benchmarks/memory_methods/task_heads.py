"""A network that is told the task: hidden layers that all tasks share, and an output layer for each task."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

import gnt
from benchmarks.memory_methods.heads import outputs_of
from benchmarks.memory_methods.method import MemoryMethod
from benchmarks.saved_values import fields, integer


class TaskHeads(nn.Module):
    """A network whose last layer is replaced by one of the same size for each task.

    Args:
        net: a Sequential that ends with a linear layer.
        tasks: number of tasks.

    Attributes:
        task: the task whose outputs are computed; None: those of all tasks, one after the other.

    Shape:
        (batch, inputs) -> (batch, outputs of one task).
    """

    def __init__(self, net: nn.Module, tasks: int) -> None:
        super().__init__()
        *hidden, last = net.children()
        self.hidden = nn.Sequential(*hidden)
        self.heads = gnt.MultiHead(last.in_features, [last.out_features] * tasks)  # type: ignore[arg-type, list-item]
        self.task: int | None = 0
        self._tasks = tasks
        self._groups: gnt.Groups | None = None  # found once: they do not change

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of the task."""
        features = self.hidden(x)
        tasks = range(self._tasks) if self.task is None else [self.task]
        return torch.cat([self.heads(features, task) for task in tasks], -1)

    def groups(self) -> gnt.Groups:
        """The hidden units, which the heads of all tasks read."""
        if self._groups is None:
            first = next(layer for layer in self.hidden if isinstance(layer, nn.Linear))
            task, self.task = self.task, None
            self._groups = gnt.trace(self, torch.zeros(2, first.in_features))
            self.task = task
        return self._groups


class TaskHeadsMethod(MemoryMethod):
    """A method with an output layer for each task; with no parts, plain backpropagation in such a network."""

    def _own_net(self, net: nn.Module) -> nn.Module:
        return TaskHeads(net, self._scenario.tasks)

    def _layers(self, net: nn.Module) -> Any:
        return net.groups()  # type: ignore[operator]

    def begin_task(self, number: int) -> None:
        """Compute the outputs of the task from now on."""
        self.learner.net.task = number
        super().begin_task(number)

    def _evaluated(self, number: int) -> contextlib.AbstractContextManager[None]:
        return outputs_of(self.learner.net, number)

    def units(self, net: nn.Module, x: Tensor) -> Any:
        """The unit groups, which all tasks share."""
        return net.groups()  # type: ignore[operator]

    def state_dict(self) -> dict[str, Any]:
        """As `MemoryMethod.state_dict`, with the task."""
        return {**super().state_dict(), "task": self.learner.net.task}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises ValueError if a part is missing or is not of its kind."""
        fields(task=integer(0, self._scenario.tasks - 1))("method", state)
        super().load_state_dict(state)
        self.learner.net.task = state["task"]
