"""Methods with an output layer for each task."""

from __future__ import annotations

import contextlib
from typing import Any

from torch import Tensor, nn

from ..saved_values import fields, integer
from .heads import TaskHeads, outputs_of
from .method import MemoryMethod


class TaskHeadsMethod(MemoryMethod):
    """A method with an output layer for each task; with no parts, plain backpropagation in such a network."""

    def _own_net(self, net: nn.Module) -> nn.Module:
        return TaskHeads(net, self._scenario)

    @property
    def _net(self) -> TaskHeads:
        return _task_heads(self.learner.net)

    def _layers(self, net: nn.Module) -> Any:
        return _task_heads(net).groups()

    def begin_task(self, number: int) -> None:
        """Compute the outputs of the task from now on."""
        self._net.task = number
        super().begin_task(number)

    def _evaluated(self, number: int) -> contextlib.AbstractContextManager[None]:
        return outputs_of(self._net, number)

    def _plain_net(self) -> nn.Module | None:
        """The hidden layers, with the output layer of the present task."""
        net = self._net
        return nn.Sequential(*net.hidden, *net.heads.heads[f"task_{net.task}"].children())

    def units(self, net: nn.Module, x: Tensor) -> Any:
        """The unit groups, which all tasks share."""
        return _task_heads(net).groups()

    def state_dict(self) -> dict[str, Any]:
        """As `MemoryMethod.state_dict`, with the task."""
        return {**super().state_dict(), "task": self._net.task}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises ValueError if a part is missing or is not of its kind."""
        fields(task=integer(0, self._scenario.tasks - 1))("method", state)
        super().load_state_dict(state)
        self._net.task = state["task"]


def _task_heads(net: nn.Module) -> TaskHeads:
    assert isinstance(net, TaskHeads)
    return net
