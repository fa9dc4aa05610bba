"""Training on a sequence of tasks of labelled images, in shuffled batches; shared by the image experiments."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

import gnt

from .methods import Method
from .plasticity import Check, Verdicts
from .saved_tensors import random_state, tensor
from .saved_values import Kind, anything, fields, integer, mapping, number, sequence, text
from .seeds import stream
from .training import Row, Training


class Images(Protocol):
    """Images, (n, ...): a tensor, or an object that computes images when they are indexed."""

    def __getitem__(self, chosen: Tensor, /) -> Tensor:
        """The images with these indices, (len(chosen), ...)."""


class Task(NamedTuple):
    """A task: images (n, ...) and labels (n,) to learn, and the images that `gnt.metrics.Probe` measures on."""

    x: Images
    y: Tensor
    probe: Tensor


class TaskTraining(Training):
    """Trains some seeds of one method on all tasks. The tasks depend on the seed only, not on the method.

    A subclass defines the tasks and sets ``method``. A row is written at the end of each task: ``online_accuracy``, the
    fraction classified correctly before the update; the metrics of `task_metrics`; and those of `gnt.metrics.Probe` at
    the start of the task.

    Args:
        seeds: one seed, or several that are trained together.
        tasks: number of tasks.
        epochs: number of passes over the images of a task.
        images: number of images of a task.
        batch: number of images in a batch.
        piece: number of batches in a piece of work; their images are in memory at once.
        device: the device of tasks and networks.

    Attributes:
        check: how networks are checked for plasticity at the end; None: they are not.
    """

    check: ClassVar[Check | None] = None

    def __init__(
        self,
        seeds: list[int],
        *,
        tasks: int,
        epochs: int,
        images: int,
        batch: int,
        piece: int,
        device: str = "cpu",
    ) -> None:
        self.seeds, self.tasks, self.epochs, self.images, self.batch = seeds, tasks, epochs, images, batch
        self.batches = -(-images // batch)
        self.piece, self.device = piece, device
        self.pieces_per_task = -(-self.batches * epochs // piece)
        self.total, self.done, self.latest = tasks * self.pieces_per_task, 0, ""
        self.method: Method
        self._streams = [stream(seed, "order") for seed in seeds]
        self._order = torch.empty(0)
        self._correct = torch.zeros(len(seeds), dtype=torch.int64)
        self._rows: list[Row] = []  # probe metrics at the start of the current task
        self._tasks: list[Task] = []

    @abstractmethod
    def task(self, number: int, seed: int) -> Task:
        """The task with this number (from 0) of a seed; the same in every call."""

    def before_task(self, number: int) -> None:
        """Called before the probe measures at the start of each task."""
        self.method.begin_task(number)

    def task_metrics(self, number: int, seed: int, net: nn.Module) -> Row:
        """Further metrics of a seed at the end of a task."""
        return {}

    def advance(self) -> list[Row]:
        """Train on the next batches of the task."""
        number, piece = divmod(self.done, self.pieces_per_task)
        if piece == 0:
            self._start(number)
        first = piece * self.piece
        after = min(first + self.piece, self.batches * self.epochs)
        self._learn(range(first, after))
        self.done += 1
        images = after // self.batches * self.images + min(after % self.batches * self.batch, self.images)
        accuracy = (self._correct.double() / images).tolist()
        self.latest = f"task {number + 1}/{self.tasks}  accuracy {sum(accuracy) / len(accuracy):.0%}"
        if piece + 1 < self.pieces_per_task:
            return []
        return self._end(number, accuracy)

    def _start(self, number: int) -> None:
        self._load_tasks(number)
        self._correct.zero_()
        self.before_task(number)
        self._rows = []
        for net, task in zip(self.method.nets(), self._tasks, strict=True):
            self._rows.append(gnt.metrics.Probe(net, self.method.units(net, task.probe), task.probe).measure())

    def _load_tasks(self, number: int) -> None:
        self._tasks = [self.task(number, seed) for seed in self.seeds]

    def _learn(self, indices: range) -> None:
        """Train on batches with these numbers, counted from the start of the task. Work that can be shared is done for
        all at once.
        """
        batches = [self._batch_indices(index) for index in indices]
        sizes = [batch.shape[1] for batch in batches]
        chosen = torch.cat(batches, 1).to(self.device)
        # seeds are dimension 1, so that strides, which compiled graphs depend on, do not depend on the image count
        x = torch.stack([task.x[own] for task, own in zip(self._tasks, chosen, strict=True)], 1)
        y = torch.stack([task.y[own] for task, own in zip(self._tasks, chosen, strict=True)], 1)
        pairs = zip(x.split(sizes), y.split(sizes), strict=True)
        outputs = [self.method.learn(x.transpose(0, 1), y.transpose(0, 1))[1] for x, y in pairs]
        self._correct += (torch.cat(outputs, 1).argmax(-1) == y.transpose(0, 1)).sum(1).cpu()

    def _batch_indices(self, index: int) -> Tensor:
        """The indices of the images in a batch, for each seed."""
        within = index % self.batches
        if within == 0:
            self._order = torch.stack([torch.randperm(self.images, generator=own) for own in self._streams])
        return self._order[:, within * self.batch : (within + 1) * self.batch]

    def _end(self, number: int, accuracy: list[float]) -> list[Row]:
        rows = []
        for i, (seed, net) in enumerate(zip(self.seeds, self.method.nets(), strict=True)):
            row: Row = {"seed": seed, "task": number + 1, "online_accuracy": accuracy[i]}
            rows.append({**row, **self.task_metrics(number, seed, net), **self._rows[i]})
        return rows

    def further_task(self, seed: int) -> Task:
        """What the plasticity check learns: the task after the last one."""
        return self.task(self.tasks, seed)

    def plasticity(self) -> Verdicts:
        """The check learns `further_task`."""
        if self.check is None or self.tasks * self.epochs * self.batches < self.check.shortest:
            return {}
        tasks = [self.further_task(seed) for seed in self.seeds]
        every = [torch.arange(len(task.y), device=self.device) for task in tasks]
        data = [(task.x[own], task.y) for task, own in zip(tasks, every, strict=True)]
        found: Verdicts = self.method.plasticity(data, self.check)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which training continues bit for bit."""
        return {
            "done": self.done,
            "latest": self.latest,
            "method": self.method.state_dict(),
            "streams": [own.get_state() for own in self._streams],
            "order": self._order,
            "correct": self._correct,
            "rows": self._rows,
        }

    def _kind(self, begun: bool) -> Kind:
        """What a saved state is; ``begun``: whether a piece was trained."""
        count = len(self.seeds)
        order = tensor(torch.int64, count, self.images, least=0, most=self.images - 1)
        return fields(
            done=integer(0, self.total),
            latest=text,
            method=mapping(anything),
            streams=sequence(random_state, count),
            order=order if begun else tensor(torch.float32, 0),
            correct=tensor(torch.int64, count, least=0),
            rows=sequence(mapping(number()), count if begun else 0),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            ValueError: a value is missing or is not of its kind.
        """
        self._kind(begun=state.get("done") != 0)("job", state)
        self.done, self.latest = state["done"], state["latest"]
        self._order, self._correct, self._rows = state["order"], state["correct"], state["rows"]
        for own, saved in zip(self._streams, state["streams"], strict=True):
            own.set_state(saved)
        number, piece = divmod(self.done, self.pieces_per_task)
        if piece:
            self._load_tasks(number)
        self.method.load_state_dict(state["method"])
