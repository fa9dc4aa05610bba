"""The training loop of class pairs."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import nn

from ..accuracy import accuracy
from ..errors import CannotRun
from ..methods import Method
from ..plasticity import Check
from ..seeds import stream
from ..task_training import Task, TaskTraining
from ..training import Row
from .data import load_classes
from .net import SMALLEST, make_net, zero_head
from .pairs import Pair, draw_pairs, make_pair
from .settings import Settings

BATCHES_PER_PIECE: Final = 5
PROBE: Final = 100  # images per class


class Training(TaskTraining):
    """Trains one method on all pairs. Pairs, images and initial weights are the same for every method.

    Rows are those of `TaskTraining` and ``test_accuracy`` at the end of the task. The probe measures on up to 100
    training images of each class, before the task is learned.
    """

    check: ClassVar[Check | None] = Check(steps=100, batch=20)

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        self.settings = settings
        self._classes = load_classes(settings)
        self._pairs = {seed: draw_pairs(settings.tasks + 1, len(self._classes), seed) for seed in seeds}
        self._current: dict[int, tuple[int, Pair]] = {}  # seed -> number and images of its current task
        super().__init__(
            seeds,
            tasks=settings.tasks,
            epochs=settings.epochs,
            images=2 * settings.train,
            batch=settings.batch,
            piece=BATCHES_PER_PIECE,
        )
        _, channels, size, width = self._pair(0, seeds[0]).x.shape
        if size != width or size < SMALLEST:
            raise CannotRun(f"Images must be square and at least {SMALLEST} x {SMALLEST}; these are {size} x {width}.")

        def make(method: str) -> nn.Sequential:
            return make_net(channels, size, layer_norm=method == "layer_norm")

        self.method = Method(method, make, settings, seeds, loss="cross_entropy", opt="sgd", momentum=settings.momentum)

    def task(self, number: int, seed: int) -> Task:
        """The images of the pair with that number."""
        pair = self._pair(number, seed)
        half = len(pair.x) // 2
        probe = torch.cat([pair.x[:half][:PROBE], pair.x[half:][:PROBE]])
        return Task(pair.x, pair.y, probe)

    def before_task(self, number: int) -> None:
        """Reset the head to zero."""
        for net in self.method.nets():
            zero_head(net)  # type: ignore[arg-type]

    def task_metrics(self, number: int, seed: int, net: nn.Module) -> Row:
        """Accuracy on the pair's test images."""
        pair = self._pair(number, seed)
        return {"test_accuracy": accuracy(net, pair.test_x, pair.test_y)}

    def _pair(self, number: int, seed: int) -> Pair:
        if self._current.get(seed, (-1,))[0] != number:
            classes = self._pairs[seed][number].tolist()
            generator = stream(seed, f"images of task {number}")
            pair = make_pair(self._classes, classes, self.settings.train, self.settings.test, generator)
            self._current[seed] = number, pair
        return self._current[seed][1]
