"""The training loop of permuted tasks."""

from __future__ import annotations

from typing import ClassVar, Final

import torch.nn.functional as F
from torch import Tensor

import gnt

from ..memory_methods import MemoryTraining, memory_method
from ..nets import mlp
from ..permuted_mnist.pixel_permutation import permutation
from ..plasticity import Check
from ..task_training import Task
from ..training import Row
from .data import load_images
from .settings import Settings

BATCHES_PER_PIECE: Final = 100
PROBED: Final = 500
CLASSES: Final = 10


class SharedOutputs:
    """All tasks have the same classes, and share the outputs of one head."""

    outputs = CLASSES

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks

    def restrict(self, output: Tensor, targets: Tensor) -> Tensor:
        """All outputs."""
        return output

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(output, targets)

    def own_outputs(self, task: int) -> slice | None:
        """None: no output belongs to one task only."""
        return None


class Training(MemoryTraining):
    """Trains one method on all tasks. Images, permutations, their order and initial weights are the same for every
    method.

    Rows are those of `MemoryTraining`, with ``new_task``, the accuracy on the task just learned; and from the second
    task on ``old_tasks``, the mean accuracy on all earlier ones, and ``one_step_backward_transfer``.
    """

    check: ClassVar[Check | None] = Check(steps=100)

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        self._seed = seeds[0]
        self._train, self._test = load_images(settings.source, settings.data, settings.train, settings.test)
        super().__init__(
            seeds,
            tasks=settings.tasks,
            epochs=settings.epochs,
            images=len(self._train.labels),
            batch=settings.batch,
            piece=BATCHES_PER_PIECE,
        )
        sizes = (self._train.images.shape[1], *map(int, settings.hidden.split("-")), CLASSES)
        scenario, steps = SharedOutputs(settings.tasks), self.batches * settings.epochs
        self.method = memory_method(method, lambda: mlp(sizes), settings, scenario, seeds[0], steps)

    def task(self, number: int, seed: int) -> Task:
        """The images, with a new permutation of their pixels."""
        x = self.learned(number)
        return Task(x, self._train.labels, x[:PROBED])

    def learned(self, number: int) -> Tensor:
        """The training images with the permutation of a task."""
        return self._train.images[:, self._permutation(number)]

    def tested(self, number: int) -> tuple[Tensor, Tensor]:
        """The test images with the permutation of a task, and their classes."""
        return self._test.images[:, self._permutation(number)], self._test.labels

    def _permutation(self, number: int) -> Tensor:
        return permutation(number, self._seed, self._train.images.shape[1])

    def further_metrics(self, so_far: Tensor) -> Row:
        """Accuracy on the newest task, on all earlier ones, and what the newest one changed in each."""
        row = {"new_task": float(so_far[-1, -1])}
        if len(so_far) > 1:
            row["old_tasks"] = float(so_far[-1, :-1].mean())
            row["one_step_backward_transfer"] = gnt.metrics.one_step_backward_transfer(so_far)
        return row
