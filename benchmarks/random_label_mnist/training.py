"""The training loop of random-label MNIST."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Final

import torch

from ..datasets import fixed_digits
from ..methods import Method
from ..nets import mlp
from ..plasticity import Check
from ..seeds import stream
from ..task_training import Task, TaskTraining
from .settings import Settings

CLASSES: Final = 10
BATCH: Final = 16
SIZES: Final = (784, 100, 100, CLASSES)
BATCHES_PER_PIECE: Final = 75


class Training(TaskTraining):
    """Trains one method on all tasks. Images, initial weights, labels and the order of images are the same for every
    method.
    """

    check: ClassVar[Check | None] = Check(batch=BATCH, fresh="labels")  # so few that they can be learned by heart

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        self._images = fixed_digits()
        super().__init__(
            seeds,
            tasks=settings.tasks,
            epochs=settings.epochs,
            images=len(self._images),
            batch=BATCH,
            piece=BATCHES_PER_PIECE,
        )
        make_net = partial(mlp, SIZES)
        self.method = Method(method, make_net, settings, seeds, loss="cross_entropy", opt="adam", init="default")

    def task(self, number: int, seed: int) -> Task:
        """The images, with new labels."""
        generator = stream(seed, f"labels of task {number}")
        labels = torch.randint(CLASSES, (len(self._images),), generator=generator)
        return Task(self._images, labels, self._images)
