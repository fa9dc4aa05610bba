"""The training loop of Permuted MNIST."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import torch

from ..errors import CannotRun
from ..methods import Method
from ..plasticity import Check
from ..task_training import Task, TaskTraining
from .data import load_images
from .net import PIXELS, network_factory
from .pixel_permutation import PermutedImages, permutation
from .settings import Settings

BATCHES_PER_PIECE: Final = 250
PROBED: Final = 1000


class Training(TaskTraining):
    """Trains one method on all tasks, one image per step. Images, initial weights, permutations and the order of images
    are the same for every method.
    """

    check: ClassVar[Check | None] = Check(batch=16)

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        self._settings = settings
        device = _check_device(settings.device)
        data = load_images(settings.source, settings.data, settings.images)
        self._images, self._labels = data.images.flatten(1).to(device), data.labels.to(device)
        super().__init__(
            seeds,
            tasks=settings.tasks,
            epochs=1,
            images=len(data),
            batch=1,
            piece=BATCHES_PER_PIECE,
            device=device,
        )
        options: dict[str, Any] = {}
        if settings.optimizer != "sgd":
            options["betas"] = (settings.beta1, settings.beta2)
        self.method = Method(
            method,
            network_factory(settings.hidden, settings.init, device),
            settings,
            seeds,
            loss="cross_entropy",
            opt=settings.optimizer,
            init=settings.init,
            device=device,
            **options,
        )

    def task(self, number: int, seed: int) -> Task:
        """The images, with a new permutation of their pixels."""
        images = PermutedImages(
            self._images, permutation(number, seed, PIXELS), centred=self._settings.inputs == "centred"
        )
        first = torch.arange(min(PROBED, self.images), device=self.device)
        return Task(images, self._labels, images[first])


def _check_device(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise CannotRun(
            "--device cuda: torch finds no GPU. Use --device cpu, or install a torch that is built for your GPU "
            "(https://pytorch.org/get-started)"
        )
    return device
