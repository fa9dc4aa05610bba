"""The training loop of split digits."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

import gnt
from benchmarks.memory_methods import memory_method
from benchmarks.nets import mlp
from benchmarks.saved_tensors import tensor
from benchmarks.saved_values import fields
from benchmarks.seeds import stream
from benchmarks.split_digits.data import class_order, load_images
from benchmarks.split_digits.scenarios import PER_TASK, TASKS, SplitScenario
from benchmarks.split_digits.settings import Settings
from benchmarks.task_training import Task, TaskTraining
from benchmarks.training import Row

BATCHES_PER_PIECE: Final = 25
PROBED: Final = 500


class Training(TaskTraining):
    """Trains one method on all tasks. Tasks and initial weights are the same for every method.

    Rows are those of `TaskTraining`, with ``accuracy``, the mean accuracy on all tasks so far; ``accuracy_on/t`` for
    each task t (from 1) so far; and from the second task on ``forgetting`` and ``backward_transfer``. The method
    "joint" takes as many steps as the others, on images of all classes.
    """

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        settings.check(method)
        self._settings, self._name = settings, method
        self._scenario = SplitScenario(settings.scenario)
        self._data = load_images(settings.source, settings.data, settings.train, settings.test)
        self._classes = class_order(self._data, settings.order, seeds[0])
        self._matrix = torch.full((TASKS, TASKS), torch.nan, dtype=torch.float64)
        super().__init__(
            seeds,
            tasks=TASKS,
            epochs=settings.epochs,
            images=self._data.train.shape[1] * PER_TASK,
            batch=settings.batch,
            piece=BATCHES_PER_PIECE,
        )
        sizes = (self._data.train.shape[2], *map(int, settings.hidden.split("-")), self._scenario.outputs)
        steps = self.batches * settings.epochs
        self.method: Any = memory_method(method, lambda: mlp(sizes), settings, self._scenario, seeds[0], steps)

    def task(self, number: int, seed: int) -> Task:
        """The images of two classes; of all classes for the method "joint"."""
        x, y = self._pair(self._data.train, number)
        if self._name == "joint":
            every = [self._pair(self._data.train, each) for each in range(TASKS)]
            all_x, all_y = (torch.cat(parts) for parts in zip(*every, strict=True))
            chosen = torch.randperm(len(all_x), generator=stream(seed, f"joint images of task {number}"))[: len(x)]
            return Task(all_x[chosen], all_y[chosen], x[:: max(1, len(x) // PROBED)])
        return Task(x, y, x[:: max(1, len(x) // PROBED)])

    def before_task(self, number: int) -> None:
        """Tell the method that a task begins."""
        self.method.begin_task(number)

    def _pair(self, images: Tensor, number: int) -> tuple[Tensor, Tensor]:
        classes = torch.arange(number * PER_TASK, (number + 1) * PER_TASK)
        x = images[self._classes[classes]]
        return x.flatten(0, 1), self._scenario.targets(classes.repeat_interleave(x.shape[1]))

    def task_metrics(self, number: int, seed: int, net: nn.Module) -> Row:
        """Accuracies on the test images of all tasks so far, and what they say about forgetting."""
        self.method.end_task(number, self._pair(self._data.train, number)[0])
        for task in range(number + 1):
            self._matrix[number, task] = self.method.accuracy(task, *self._pair(self._data.test, task))
        so_far = self._matrix[: number + 1, : number + 1]
        row = {"accuracy": gnt.metrics.average_accuracy(so_far)}
        row |= {f"accuracy_on/{task + 1}": value for task, value in enumerate(so_far[-1].tolist())}
        if number:
            row["forgetting"] = gnt.metrics.forgetting(so_far)
            row["backward_transfer"] = gnt.metrics.backward_transfer(so_far)
        return row

    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which training continues bit for bit."""
        return {**super().state_dict(), "accuracies": self._matrix.nan_to_num(nan=-1.0)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            ValueError: a value is missing or is not of its kind.
        """
        fields(accuracies=tensor(torch.float64, TASKS, TASKS))("job", {"accuracies": state.get("accuracies")})
        super().load_state_dict({name: value for name, value in state.items() if name != "accuracies"})
        accuracies = state["accuracies"].clone()
        self._matrix = accuracies.masked_fill_(accuracies < 0, torch.nan)
