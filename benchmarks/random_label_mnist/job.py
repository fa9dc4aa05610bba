"""The training of random-label MNIST, an epoch at a time."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

import benchmarks.job
from benchmarks.datasets import fixed_digits
from benchmarks.methods import make_learner, with_seed
from benchmarks.random_label_mnist.settings import Settings
from benchmarks.seeds import stream

CLASSES: Final = 10
BATCH: Final = 16


def make_net() -> nn.Sequential:
    """784-100-100-10 with ReLU."""
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, CLASSES))


@torch.no_grad()
def dead_units(net: nn.Sequential, images: Tensor) -> list[float]:
    """For each hidden layer the share of its units with sum |h| = 0 over ``images``."""
    shares = []
    feature = images
    for layer in net:
        feature = layer(feature)
        if isinstance(layer, nn.ReLU):
            shares.append(int((feature.abs().sum(0) == 0).sum()) / feature.shape[1])
    return shares


class Job(benchmarks.job.Job):
    """One method on all tasks. The images, the initial weights, the labels and their order are the same for
    every method.

    Figures, one entry a task: ``online_accuracy``, the mean correctness before each update; ``dead_units``,
    the share in each hidden layer at the start of the task.
    """

    def __init__(self, settings: Settings, method: str) -> None:
        self.settings = settings
        self.total = settings.tasks * settings.epochs
        self.done = 0
        self.figures = {"online_accuracy": [], "dead_units": []}
        self.latest = ""
        self._images = fixed_digits()
        self._net = with_seed(settings.seed, make_net)
        self._learner = make_learner(method, self._net, settings, loss="cross_entropy", opt="adam")
        self._label_stream = stream(settings.seed, "labels")
        self._order_stream = stream(settings.seed, "order")
        self._labels = torch.empty(0)
        self._correct = torch.zeros((), dtype=torch.int64)

    def advance(self) -> str | None:
        """One epoch."""
        epoch = self.done % self.settings.epochs
        if epoch == 0:
            self._start_task()
        order = torch.randperm(len(self._images), generator=self._order_stream)
        batches = zip(torch.split(self._images[order], BATCH), torch.split(self._labels[order], BATCH), strict=True)
        for images, labels in batches:
            output = self._learner.learn(images, labels).output
            self._correct += (output.argmax(1) == labels).sum()
        self.done += 1
        accuracy = int(self._correct) / (len(self._images) * (epoch + 1))
        task = len(self.figures["dead_units"])
        dead = " ".join(f"{share:.0%}" for share in self.figures["dead_units"][-1])
        self.latest = f"task {task}/{self.settings.tasks}  accuracy {accuracy:.0%}  dead {dead}"
        if epoch + 1 < self.settings.epochs:
            return None
        self.figures["online_accuracy"].append(accuracy)
        return f"task {task}: online accuracy {accuracy:.3f}, dead units at its start {dead}"

    def _start_task(self) -> None:
        self.figures["dead_units"].append(dead_units(self._net, self._images))
        self._labels = torch.randint(CLASSES, (len(self._images),), generator=self._label_stream)
        self._correct.zero_()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit."""
        return {
            "done": self.done,
            "figures": self.figures,
            "latest": self.latest,
            "learner": self._learner.state_dict(),
            "label_stream": self._label_stream.get_state(),
            "order_stream": self._order_stream.get_state(),
            "labels": self._labels,
            "correct": self._correct,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.done, self.figures, self.latest = state["done"], state["figures"], state["latest"]
        self._learner.load_state_dict(state["learner"])
        self._label_stream.set_state(state["label_stream"])
        self._order_stream.set_state(state["order_stream"])
        self._labels, self._correct = state["labels"], state["correct"]
