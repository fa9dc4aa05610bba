"""The training loop of split digits."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor

from ..memory_methods import MemoryTraining, memory_method
from ..nets import mlp
from ..permuted_mnist.pixel_permutation import permutation
from ..plasticity import Check
from ..seeds import stream
from ..task_training import Task
from .data import class_order, load_images
from .scenarios import PER_TASK, TASKS, SplitScenario
from .settings import Settings

BATCHES_PER_PIECE: Final = 25
PROBED: Final = 500


class Training(MemoryTraining):
    """Trains one method on all tasks. Tasks and initial weights are the same for every method. The method "joint" takes
    as many steps as the others, on images of all classes.
    """

    check: ClassVar[Check | None] = Check(steps=50, shortest=1_000)

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        settings.check(method)
        self._settings, self._name = settings, method
        self._scenario = SplitScenario(settings.scenario)
        self._data = load_images(settings.source, settings.data, settings.train, settings.test)
        self._classes = class_order(self._data, settings.order, seeds[0])
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
        self.method = memory_method(method, lambda: mlp(sizes), settings, self._scenario, seeds[0], steps)

    def task(self, number: int, seed: int) -> Task:
        """The images of two classes; of all classes for the method "joint"."""
        x, y = self._pair(self._data.train, number)
        if self._name == "joint":
            every = [self._pair(self._data.train, each) for each in range(TASKS)]
            all_x, all_y = (torch.cat(parts) for parts in zip(*every, strict=True))
            chosen = torch.randperm(len(all_x), generator=stream(seed, f"joint images of task {number}"))[: len(x)]
            return Task(all_x[chosen], all_y[chosen], x[:: max(1, len(x) // PROBED)])
        return Task(x, y, x[:: max(1, len(x) // PROBED)])

    def further_task(self, seed: int) -> Task:
        """The images of all classes, as there are no others, with a permutation of the pixels; all outputs compete."""
        every = [self._pair(self._data.train, number) for number in range(TASKS)]
        x, y = (torch.cat(parts) for parts in zip(*every, strict=True))
        return Task(x[:, permutation(TASKS, seed, x.shape[1])], y, x[:PROBED])

    def learned(self, number: int) -> Tensor:
        """The training images of two classes."""
        return self._pair(self._data.train, number)[0]

    def tested(self, number: int) -> tuple[Tensor, Tensor]:
        """The test images of two classes, and their targets."""
        return self._pair(self._data.test, number)

    def _pair(self, images: Tensor, number: int) -> tuple[Tensor, Tensor]:
        classes = torch.arange(number * PER_TASK, (number + 1) * PER_TASK)
        x = images[self._classes[classes]]
        return x.flatten(0, 1), self._scenario.targets(classes.repeat_interleave(x.shape[1]))
