"""The training of Slowly-Changing Regression, some hundred steps at a time."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

import benchmarks.job
from benchmarks.methods import Learner, make_ensemble, make_learner, with_seed
from benchmarks.slowly_changing_regression.settings import Settings
from benchmarks.slowly_changing_regression.target import BITS, Inputs, Target

HIDDEN: Final = 5
PIECE: Final = 250


def make_net() -> nn.Sequential:
    """20-5-1 with ReLU; Kaiming-uniform hidden weights, outgoing ones within sqrt(3/5), biases zero."""
    net = nn.Sequential(nn.Linear(BITS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    for layer, gain in ((net[0], nn.init.calculate_gain("relu")), (net[2], 1.0)):
        assert isinstance(layer, nn.Linear)
        bound = gain * (3 / layer.in_features) ** 0.5
        nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.zeros_(layer.bias)
    return net


class Job(benchmarks.job.Job):
    """One method on the whole stream, one example a step. Target, inputs and initial weights are the same for
    every method. Several seeds are trained together, each on the stream that it has alone.

    Figures: ``squared_error``, the mean over each bin, and over the seeds, of the error before each update; a
    last incomplete bin is left out, unless it is the only one. Of several seeds also ``squared_error_by_seed``.
    """

    def __init__(self, settings: Settings, method: str) -> None:
        self.settings = settings
        self.total = -(-settings.steps // PIECE)
        self.done = 0
        self.figures = {"squared_error": []}
        self.latest = ""
        seeds = range(settings.seed, settings.seed + settings.seeds)
        self._targets = [Target(seed) for seed in seeds]
        self._inputs = [Inputs(seed, settings.flip_every, settings.variant) for seed in seeds]
        self._learner: Learner
        if settings.seeds > 1:
            self.figures["squared_error_by_seed"] = []
            self._learner = make_ensemble(method, make_net, settings, loss="mse", opt=settings.optimizer)
        else:
            net = with_seed(settings.seed, make_net)
            self._learner = make_learner(method, net, settings, loss="mse", opt=settings.optimizer)
        self._bin: list[list[float]] = []  # for each step the error of each seed

    def advance(self) -> str | None:
        """The next steps."""
        count = min(PIECE, self.settings.steps - self.done * PIECE)
        inputs = torch.stack([inputs.take(count) for inputs in self._inputs])
        targets = torch.stack([target(own) for target, own in zip(self._targets, inputs, strict=True)])
        if self.settings.seeds == 1:
            inputs, targets = inputs[0], targets[0]
        examples = zip(torch.split(inputs, 1, -2), torch.split(targets, 1, -2), strict=True)
        losses = [self._learner.learn(x, y).loss for x, y in examples]
        self._bin += torch.stack(losses).view(count, self.settings.seeds).tolist()
        self.done += 1
        size = self.settings.bin
        line = None
        while len(self._bin) >= size or (self.done == self.total and not self.figures["squared_error"]):
            full = self._bin[:size]
            each = [sum(own) / len(full) for own in zip(*full, strict=True)]
            error = sum(each) / len(each)
            self.figures["squared_error"].append(error)
            if self.settings.seeds > 1:
                self.figures["squared_error_by_seed"].append(each)
            del self._bin[:size]
            steps = len(self.figures["squared_error"]) * size
            self.latest = f"error {error:.2f}"
            line = f"to step {min(steps, self.settings.steps):,}: squared error {error:.3f}"
        return line

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit."""
        return {
            "done": self.done,
            "figures": self.figures,
            "latest": self.latest,
            "learner": self._learner.state_dict(),
            "inputs": [inputs.state_dict() for inputs in self._inputs],
            "bin": torch.tensor(self._bin, dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.done, self.figures, self.latest = state["done"], state["figures"], state["latest"]
        self._learner.load_state_dict(state["learner"])
        for inputs, own in zip(self._inputs, state["inputs"], strict=True):
            inputs.load_state_dict(own)
        self._bin = state["bin"].tolist()
