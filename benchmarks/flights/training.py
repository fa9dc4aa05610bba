"""The training loop of the flights, a day per piece."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

import gnt

from ..methods import Method
from ..nets import mlp
from ..plasticity import SHORTEST, Check, Verdicts
from ..saved_tensors import random_state
from ..saved_values import anything, fields, integer, mapping, sequence, text
from ..seeds import stream
from ..training import Row
from ..training import Training as BaseTraining
from .settings import KEPT, Settings
from .stream import Flights, auc

CHECK: Final = Check()
PROBED: Final = 500


class Training(BaseTraining):
    """Trains one method on all days. Initial weights and the order of a day's flights depend on the seed only.

    A row for each seed and day, measured before the day is learned: ``auc``, ``log_loss``, and the metrics of
    `gnt.metrics.Probe` on up to 500 of its flights.
    """

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        self.settings, self.seeds = settings, seeds
        self.flights = Flights(settings)
        self.total, self.done, self.latest = settings.days, 0, ""
        self._orders = [stream(seed, "order") for seed in seeds]
        self.method = Method(
            method, self.make_net, settings, seeds, loss="cross_entropy", opt=settings.optimizer, init="default"
        )

    def make_net(self, method: str) -> nn.Sequential:
        """A new network, with weights from torch's global generator."""
        return mlp((self.flights.inputs, *map(int, self.settings.hidden.split("-")), 2), method)

    def advance(self) -> list[Row]:
        """Predict the flights of a day, then learn them."""
        day = self.flights.days[self.done]
        x, y = self.flights.day(day)
        rows = [self._row(seed, day, net, x, y) for seed, net in zip(self.seeds, self.method.nets(), strict=True)]
        for _ in range(self.settings.epochs):
            orders = torch.stack([torch.randperm(len(x), generator=own) for own in self._orders])
            for chosen in orders.split(self.settings.batch, 1):
                self.method.learn(x[chosen], y[chosen])
        self.done += 1
        self.latest = f"day {day}  AUC {sum(row['auc'] for row in rows) / len(rows):.2f}"
        return rows

    def _row(self, seed: int, day: int, net: nn.Module, x: Tensor, y: Tensor) -> Row:
        net.eval()
        with torch.no_grad():
            output = net(x)
        net.train()
        row: Row = {"seed": seed, "day": day, "auc": auc(output[:, 1] - output[:, 0], y)}
        row["log_loss"] = float(nn.functional.cross_entropy(output, y))
        probed = x[:PROBED]
        return {**row, **gnt.metrics.Probe(net, self.method.units(net, probed), probed).measure()}

    def plasticity(self) -> Verdicts:
        """The check learns the two weeks after the last day."""
        days, later = (self.flights.days[part] for part in (slice(self.total), slice(self.total, self.total + KEPT)))
        learned = sum(len(self.flights.day(day)[0]) for day in days)
        if not later or learned * self.settings.epochs // self.settings.batch < SHORTEST:
            return {}
        x, y = (torch.cat(part) for part in zip(*map(self.flights.day, later), strict=True))
        return self.method.plasticity([(x, y)] * len(self.seeds), CHECK)

    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which training continues bit for bit."""
        return {
            "done": self.done,
            "latest": self.latest,
            "method": self.method.state_dict(),
            "orders": [own.get_state() for own in self._orders],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            ValueError: a value is missing or is not of its kind.
        """
        orders = sequence(random_state, len(self.seeds))
        fields(done=integer(0, self.total), latest=text, method=mapping(anything), orders=orders)("job", state)
        self.method.load_state_dict(state["method"])
        self.done, self.latest = state["done"], state["latest"]
        for own, saved in zip(self._orders, state["orders"], strict=True):
            own.set_state(saved)
