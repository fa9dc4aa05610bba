"""The training loop of class-incremental CIFAR, some batches per piece."""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt

from ..accuracy import accuracy
from ..errors import CannotRun
from ..methods import Method
from ..plasticity import Check, Verdicts, of_seeds
from ..saved_values import anything, fields, integer, mapping, number, text
from ..seeds import stream
from ..training import Row
from ..training import Training as BaseTraining
from . import schedule
from .augmentation import AugmentationDraws, augment, draw_augmentation
from .data import load_images
from .early_stopping import BestNetwork
from .net import ResNet18, reset
from .settings import Settings
from .stages import Piece, Stages

BATCHES_PER_PIECE: Final = 4
PROBE: Final = 200  # number of images of a stage's new classes
CHECK: Final = Check(steps=100, batch=32, fresh="labels")  # so few images that they can be learned by heart


class Training(BaseTraining):
    """Trains one method on all stages. Order of classes, initial weights, batches and augmentation are the same for
    every method.

    In each stage the learning rate follows `schedule.learning_rate`, and only the outputs of the classes so far are
    trained and compared. At the end of a stage the network of the epoch with the best validation accuracy is restored;
    the optimizer's momentum and the engine's utilities continue unchanged.

    Keys of a row, one for each stage ("task"): ``classes`` so far; ``test_accuracy`` and ``validation_accuracy`` of the
    restored network; ``online_accuracy`` on the augmented images before each update; and the metrics of
    `gnt.metrics.Probe` at the start of the stage, on training images of its new classes.
    """

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        (self.seed,) = seeds
        self.settings = settings
        if settings.reset == "network" and method == "continual_backprop":
            raise CannotRun("--reset network trains from scratch, as a baseline. Use it with --methods backprop.")
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise CannotRun("--device cuda: torch finds no GPU here. Without it: --device cpu.")
        self._parts = load_images(settings, self.seed)
        self._images = self._parts.train.to(settings.device)
        outputs = int(self._images.y.max()) + 1
        self.stages = Stages(outputs, settings.step, settings.epochs, settings.train, settings.batch, BATCHES_PER_PIECE)
        self.total, self.done, self.latest = self.stages.total, 0, ""
        _, channels, size, _ = self._images.x.shape
        self._example = torch.zeros(2, channels, size, size)
        self._classes = 0  # number of classes so far, which the loss includes
        self._groups: Any = None
        self.method = Method(
            method,
            lambda _: ResNet18(channels, outputs, settings.width).to(settings.device),
            settings,
            seeds,
            loss=self._loss,
            opt="sgd",
            layers=self._trace,
            momentum=settings.momentum,
        )
        self._best = BestNetwork()
        self._right = 0
        self._seen = 0
        self._figures: Row = {}  # probe metrics at the start of the stage

    def advance(self) -> list[Row]:
        """Train on the next batches of the epoch."""
        piece = self.stages.piece(self.done)
        self._classes = piece.classes
        if piece.first == 0:
            if piece.epoch == 0:
                self._start(piece.stage)
            self._set_learning_rate(piece.epoch)
        self._learn(piece)
        self.done += 1
        if piece.ends_epoch:
            self._best.update(self._net, self._accuracy("validation"))
        self.latest = f"{piece.classes} classes  accuracy {self._right / self._seen:.0%}"
        return [self._end(piece.stage)] if piece.ends_stage else []

    @property
    def _net(self) -> nn.Module:
        return self.method.nets()[0]

    def _trace(self, net: nn.Module) -> Any:
        """The unit groups inside the blocks, traced once for engine and probe."""
        if self._groups is None:
            self._groups = gnt.trace(net, self._example.to(self.settings.device))
        return self._groups

    def _loss(self, output: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(output[:, : self._classes], y)

    def _start(self, stage: int) -> None:
        self._right = self._seen = 0
        if stage:
            self._reset(stage)
        new = self._images.y.unique()[self.stages.classes[stage - 1] if stage else 0 : self._classes]
        each = -(-PROBE // len(new))
        x = torch.cat([self._images.x[self._images.y == label][:each] for label in new])[:PROBE]
        self._figures = gnt.metrics.Probe(self._net, self._trace(self._net), x).measure()

    def _reset(self, stage: int) -> None:
        """Draw new parameters for the part that the settings name, and reset its momentum."""
        net: Any = self._net
        part = {"nothing": nn.Sequential(), "head": net.head, "network": net}[self.settings.reset]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(self.seed, f"reset {stage}").initial_seed())
            part.apply(reset)
        for parameter in part.parameters():
            for kept in self.method.learner.opt.state.get(parameter, {}).values():
                if isinstance(kept, Tensor):
                    kept.zero_()

    def _set_learning_rate(self, epoch: int) -> None:
        for group in self.method.learner.opt.param_groups:
            group["lr"] = schedule.learning_rate(self.settings.lr, epoch, self.settings.epochs)

    def _learn(self, piece: Piece) -> None:
        count, batch = self.settings.train * piece.classes, self.settings.batch
        name = f"stage {piece.stage} epoch {piece.epoch}"  # generators are made per epoch, so that none has to be saved
        order = torch.randperm(count, generator=stream(self.seed, f"order of {name}"))
        draws = draw_augmentation(count, stream(self.seed, f"augmentation of {name}"), self.settings.padding)
        for index in range(piece.first, piece.last):
            some = slice(index * batch, (index + 1) * batch)
            chosen = order[some].to(self.settings.device)
            x = augment(
                self._images.x[chosen], AugmentationDraws(*(part[some] for part in draws)), self.settings.padding
            )
            y = self._images.y[chosen]
            _, output = self.method.learn(x[None], y[None])
            self._right += int((output[0, :, : self._classes].argmax(1) == y).sum())
            self._seen += len(y)

    def _accuracy(self, part: str) -> float:
        images = getattr(self._parts, part).up_to(self._classes).to(self.settings.device)
        return accuracy(self._net, images.x, images.y, outputs=self._classes)

    def _end(self, stage: int) -> Row:
        best = self._best.accuracy
        self._best.restore(self._net)
        row: Row = {
            "seed": self.seed,
            "task": stage + 1,
            "classes": self._classes,
            "test_accuracy": self._accuracy("test"),
            "validation_accuracy": best,
            "online_accuracy": self._right / self._seen,
        }
        return {**row, **self._figures}

    def plasticity(self) -> Verdicts:
        """The check learns random labels of training images, as all classes have been learned."""
        steps = self.settings.epochs * sum(
            -(-self.settings.train * n // self.settings.batch) for n in self.stages.classes
        )
        if steps < CHECK.shortest:
            return {}
        self._classes = self.stages.classes[-1]
        verdicts = self.method.plasticity([(self._images.x, self._images.y)], CHECK)
        return of_seeds([self.seed], verdicts.values())

    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which training continues bit for bit."""
        return {
            "done": self.done,
            "latest": self.latest,
            "method": self.method.state_dict(),
            "best": self._best.state_dict(),
            "right": self._right,
            "seen": self._seen,
            "figures": self._figures,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            ValueError: a value is missing or is not of its kind.
        """
        fields(
            done=integer(0, self.total),
            latest=text,
            method=mapping(anything),
            best=BestNetwork.kind(self._net),
            right=integer(0),
            seen=integer(1 if state.get("done") else 0),
            figures=mapping(number()),
        )("job", state)
        self.method.load_state_dict(state["method"])
        self._best.load_state_dict(state["best"])
        self.done, self.latest, self._figures = state["done"], state["latest"], state["figures"]
        self._right, self._seen = state["right"], state["seen"]
