"""The training loop of Slowly-Changing Regression, some hundred steps per piece."""

from __future__ import annotations

from typing import Any, Final

import torch

from ..methods import Method
from ..plasticity import SHORTEST, Check, Verdicts
from ..saved_tensors import tensor
from ..saved_values import any_of, anything, fields, integer, mapping, sequence, text
from ..training import Row
from ..training import Training as BaseTraining
from .inputs import Inputs
from .net import network_factory
from .settings import Settings
from .target import Target

PIECE: Final = 250
CHECK: Final = Check(batch=16)


class Training(BaseTraining):
    """Trains one method on the stream, one example per step. Target, inputs and initial weights are the same for every
    method. Seeds that are trained together each have the stream that they have alone.

    A row for each seed and bin: ``squared_error``, the mean over the bin of the error before each update. An incomplete
    last bin is left out, unless it is the only one.
    """

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        self.settings, self.seeds = settings, seeds
        self.total = -(-settings.steps // PIECE)
        self.done = 0
        self.latest = ""
        self._targets = [Target(seed) for seed in seeds]
        self._inputs = [Inputs(seed, settings.flip_every, settings.variant) for seed in seeds]
        make_net = network_factory(settings.activation)
        self.method = Method(method, make_net, settings, seeds, loss="mse", opt=settings.optimizer)
        self._bin: list[list[float]] = []  # for each step, the error of each seed
        self._bins = 0

    def advance(self) -> list[Row]:
        """Train on the next examples."""
        count = min(PIECE, self.settings.steps - self.done * PIECE)
        inputs = torch.stack([inputs.take(count) for inputs in self._inputs])
        targets = torch.stack([target(own) for target, own in zip(self._targets, inputs, strict=True)])
        examples = zip(torch.split(inputs, 1, 1), torch.split(targets, 1, 1), strict=True)
        losses = [self.method.learn(x, y)[0] for x, y in examples]
        self._bin += torch.stack(losses).tolist()
        self.done += 1
        rows: list[Row] = []
        while len(self._bin) >= self.settings.bin or (self.done == self.total and not self._bins):
            rows += self._close_bin()
        return rows

    def _close_bin(self) -> list[Row]:
        full = self._bin[: self.settings.bin]
        del self._bin[: self.settings.bin]
        self._bins += 1
        step = min(self._bins * self.settings.bin, self.settings.steps)
        errors = [sum(own) / len(full) for own in zip(*full, strict=True)]
        self.latest = f"error {sum(errors) / len(errors):.2f}"
        return [
            {"seed": seed, "step": step, "squared_error": error} for seed, error in zip(self.seeds, errors, strict=True)
        ]

    def plasticity(self) -> Verdicts:
        """The check learns the next examples of each seed's stream."""
        if self.settings.steps < SHORTEST:
            return {}
        inputs = [inputs.take(CHECK.steps * CHECK.batch) for inputs in self._inputs]
        data = [(own, target(own)) for own, target in zip(inputs, self._targets, strict=True)]
        return self.method.plasticity(data, CHECK)

    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which training continues bit for bit."""
        return {
            "done": self.done,
            "latest": self.latest,
            "method": self.method.state_dict(),
            "inputs": [inputs.state_dict() for inputs in self._inputs],
            "bin": torch.tensor(self._bin, dtype=torch.float64),
            "bins": self._bins,
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
            inputs=sequence(mapping(anything), len(self.seeds)),
            bin=any_of(tensor(torch.float64, None, len(self.seeds)), tensor(torch.float64, 0)),
            bins=integer(0),
        )("job", state)
        self.done, self.latest = state["done"], state["latest"]
        self.method.load_state_dict(state["method"])
        for inputs, own in zip(self._inputs, state["inputs"], strict=True):
            inputs.load_state_dict(own)
        self._bin, self._bins = state["bin"].tolist(), state["bins"]
