"""The training loop of experiments that measure what is remembered of earlier tasks."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

import gnt

from ..saved_tensors import tensor
from ..saved_values import fields
from ..task_training import TaskTraining
from ..training import Row
from .method import MemoryMethod


class MemoryTraining(TaskTraining):
    """Trains one method on all tasks, and tests it on all tasks so far after each.

    Rows are those of `TaskTraining`, with ``accuracy``, the mean accuracy on all tasks so far; ``accuracy_on/t`` for
    each task t (from 1) so far; and from the second task on ``forgetting`` and ``backward_transfer``.

    A subclass also defines `learned` and `tested`, and sets ``method``.
    """

    method: MemoryMethod  # type: ignore[assignment]

    def __init__(self, seeds: list[int], **given: Any) -> None:
        super().__init__(seeds, **given)
        self._matrix = gnt.metrics.TaskMatrix(self.tasks)

    @abstractmethod
    def learned(self, number: int) -> Tensor:
        """The training images of a task, from which methods measure importances."""

    @abstractmethod
    def tested(self, number: int) -> tuple[Tensor, Tensor]:
        """The test images of a task, and their targets."""

    def before_task(self, number: int) -> None:
        """Tell the method that a task begins."""
        self.method.begin_task(number)

    def task_metrics(self, number: int, seed: int, net: nn.Module) -> Row:
        """Accuracies on the test images of all tasks so far, and what they say about forgetting."""
        self.method.end_task(number, self.learned(number))
        for task in range(number + 1):
            self._matrix.put(number, task, self.method.accuracy(task, *self.tested(task)))
        so_far = self._matrix.as_tensor()[: number + 1, : number + 1]
        row = {"accuracy": gnt.metrics.average_accuracy(so_far)}
        row |= {f"accuracy_on/{task + 1}": value for task, value in enumerate(so_far[-1].tolist())}
        if number:
            row["forgetting"] = gnt.metrics.forgetting(so_far)
            row["backward_transfer"] = gnt.metrics.backward_transfer(so_far)
        return row | self.further_metrics(so_far)

    def further_metrics(self, so_far: Tensor) -> Row:
        """Further metrics of the accuracies on the tasks so far, (tasks, tasks)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which training continues bit for bit."""
        return {**super().state_dict(), "accuracies": self._matrix.as_tensor().nan_to_num(nan=-1.0)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            ValueError: a value is missing or is not of its kind.
        """
        kind = tensor(torch.float64, self.tasks, self.tasks)
        fields(accuracies=kind)("job", {"accuracies": state.get("accuracies")})
        super().load_state_dict({name: value for name, value in state.items() if name != "accuracies"})
        matrix = gnt.metrics.TaskMatrix(self.tasks)
        for after, task in (state["accuracies"] >= 0).nonzero().tolist():
            matrix.put(after, task, state["accuracies"][after, task])
        self._matrix = matrix
