"""The training of Slowly-Changing Regression, some hundred steps at a time."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

import benchmarks.job
from benchmarks.methods import make_learner, with_seed
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
    every method.

    Figure: ``squared_error``, the mean over each bin of the error before each update; a last incomplete bin
    is left out, unless it is the only one.
    """

    def __init__(self, settings: Settings, method: str) -> None:
        self.settings = settings
        self.total = -(-settings.steps // PIECE)
        self.done = 0
        self.figures = {"squared_error": []}
        self.latest = ""
        self._target = Target(settings.seed)
        self._inputs = Inputs(settings.seed, settings.flip_every, settings.variant)
        self._net = with_seed(settings.seed, make_net)
        self._learner = make_learner(method, self._net, settings, loss="mse", opt=settings.optimizer)
        self._bin: list[float] = []

    def advance(self) -> str | None:
        """The next steps."""
        count = min(PIECE, self.settings.steps - self.done * PIECE)
        inputs = self._inputs.take(count)
        targets = self._target(inputs)
        examples = zip(torch.split(inputs, 1), torch.split(targets, 1), strict=True)
        losses = [self._learner.learn(x, y).loss for x, y in examples]
        self._bin += torch.stack(losses).tolist()
        self.done += 1
        size = self.settings.bin
        line = None
        while len(self._bin) >= size or (self.done == self.total and not self.figures["squared_error"]):
            error = sum(self._bin[:size]) / len(self._bin[:size])
            self.figures["squared_error"].append(error)
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
            "inputs": self._inputs.state_dict(),
            "bin": torch.tensor(self._bin, dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.done, self.figures, self.latest = state["done"], state["figures"], state["latest"]
        self._learner.load_state_dict(state["learner"])
        self._inputs.load_state_dict(state["inputs"])
        self._bin = state["bin"].tolist()
