"""The training loop of nightly retraining, a pass over the images per piece."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

import gnt

from ..accuracy import accuracy
from ..methods import Method
from ..nets import mlp
from ..plasticity import SHORTEST, Check, Verdicts, of_seeds
from ..saved_tensors import random_state
from ..saved_values import anything, fields, integer, mapping, text
from ..seeds import stream
from ..training import Row
from ..training import Training as BaseTraining
from .data import load_nights
from .settings import Settings

CHECK: Final = Check()
PROBED: Final = 500
PIXELS: Final = 784
CLASSES: Final = 10


class Training(BaseTraining):
    """Trains one method, with one seed, on the images of all nights. Images, the order of their arrival, and initial
    weights are the same for every method.

    A night ends with the pass in which the accuracy, before each update, reaches ``until``, or after ``epochs`` passes.
    A row for each night: ``test_accuracy`` at its end, ``passes``, and the metrics of `gnt.metrics.Probe` at its end.
    """

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        (self.seed,) = seeds
        self.settings, self.name = settings, method
        self.data = load_nights(settings, self.seed)
        self.total, self.done, self.latest = settings.nights * settings.epochs, 0, ""
        self._order = stream(self.seed, "order")
        self._start(0)

    def _start(self, night: int) -> None:
        """The network with which a night begins, for a cold start a new one."""
        if night == 0 or self.name == "cold":
            self.method = self._make_method(night)
            self._perturb = self._make_perturb()
            return
        self.method.begin_task(night)
        if self._perturb is not None:
            self._perturb.apply()

    def _make_method(self, night: int) -> Method:
        name = "backprop" if self.name in ("cold", "shrink_and_perturb") else self.name
        seed = self.seed if night == 0 else stream(self.seed, f"weights of night {night}").initial_seed()
        return Method(name, self.make_net, self.settings, [seed], loss="cross_entropy", opt="adam", init="default")

    def make_net(self, method: str) -> nn.Sequential:
        """A new network, with weights from torch's global generator."""
        return mlp((PIXELS, *map(int, self.settings.hidden.split("-")), CLASSES), method)

    def _make_perturb(self) -> gnt.ShrinkAndPerturb | None:
        """Shrink and Perturb as in its paper: when a night begins, not in every step."""
        if self.name != "shrink_and_perturb":
            return None
        own = self.settings
        generator = stream(self.seed, "shrink and perturb")
        return gnt.ShrinkAndPerturb(
            self.net, shrink=own.shrink, noise=own.noise, distribution="normal", every=0, generator=generator
        )

    @property
    def net(self) -> nn.Module:
        """The network."""
        return self.method.nets()[0]

    def advance(self) -> list[Row]:
        """Train for one pass over the images so far."""
        night, passed = divmod(self.done, self.settings.epochs)
        if self.done and not passed:
            self._start(night)
        right = self._learn((night + 1) * self.settings.images)
        self.latest = f"night {night + 1}/{self.settings.nights}  accuracy {right:.0%}"
        if right < self.settings.until and passed + 1 < self.settings.epochs:
            self.done += 1
            return []
        self.done = (night + 1) * self.settings.epochs
        return [self._row(night, passed + 1)]

    def _learn(self, images: int) -> float:
        """One pass. Returns the accuracy before each update."""
        order = torch.randperm(images, generator=self._order)
        right = torch.zeros((), dtype=torch.int64)
        for chosen in order.split(self.settings.batch):
            x, y = self.data.x[chosen], self.data.y[chosen]
            _, output = self.method.learn(x[None], y[None])
            right += (output[0].argmax(-1) == y).sum()
        return int(right) / images

    def _row(self, night: int, passes: int) -> Row:
        probed = self.data.test_x[:PROBED]
        row: Row = {"seed": self.seed, "night": night + 1}
        row["test_accuracy"] = accuracy(self.net, self.data.test_x, self.data.test_y)
        row["passes"] = passes
        return {**row, **gnt.metrics.Probe(self.net, self.method.units(self.net, probed), probed).measure()}

    def plasticity(self) -> Verdicts:
        """The check learns the images of a further night."""
        if self.settings.most_steps < SHORTEST:
            return {}
        verdicts = self.method.plasticity([(self.data.later_x, self.data.later_y)], CHECK)
        return of_seeds([self.seed], verdicts.values())

    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which training continues bit for bit."""
        state = {
            "done": self.done,
            "latest": self.latest,
            "method": self.method.state_dict(),
            "order": self._order.get_state(),
        }
        return state if self._perturb is None else {**state, "perturb": self._perturb.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            ValueError: a value is missing or is not of its kind.
        """
        more = {} if self._perturb is None else {"perturb": mapping(anything)}
        kinds = {"done": integer(0, self.total), "latest": text, "method": mapping(anything), "order": random_state}
        fields(**kinds, **more)("job", state)
        self.method.load_state_dict(state["method"])
        if self._perturb is not None:
            self._perturb.load_state_dict(state["perturb"])
        self.done, self.latest = state["done"], state["latest"]
        self._order.set_state(state["order"])
