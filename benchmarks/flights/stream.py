"""The flights of each day as inputs and labels of a network."""

from __future__ import annotations

import math
from datetime import date
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import CannotRun
from .settings import Settings
from .tables import ORIGINS, read_tables

MINUTES: Final = 24 * 60
# about the mean and the range of each column of the weather; fixed, so that no later day is looked at
_CENTRE: Final = torch.tensor([55.0, 10.0, 0.0, 1018.0, 9.0])
_SPREAD: Final = torch.tensor([20.0, 6.0, 0.03, 7.5, 2.0])
_LARGEST: Final = 5.0
_WEEK: Final = 7


class Flights:
    """The flights of a year by day.

    Inputs are known before the departure: time of day, day of the week, distance, weather at the origin in the hour of
    departure, and one input each for carriers, origins and destinations. The label is 1 if a flight arrives late.
    """

    def __init__(self, settings: Settings) -> None:
        self._table, self._late = read_tables(settings.data), settings.late
        days, counts = self._table["day"].unique_consecutive(return_counts=True)
        ends = counts.cumsum(0).tolist()
        self._slices = {
            day: slice(end - n, end) for day, n, end in zip(days.tolist(), counts.tolist(), ends, strict=True)
        }
        self.days = days.tolist()
        """The days of the year with flights."""
        if settings.days > len(self.days):
            raise CannotRun(f"--days must be at most {len(self.days)}, the days of the data, got {settings.days}")
        self._carriers, self._dests = (int(self._table[name].max()) + 1 for name in ("carrier", "dest"))
        self.inputs = self.day(self.days[0])[0].shape[1]
        """The number of inputs."""

    def __len__(self) -> int:
        """The number of flights."""
        return len(self._table["day"])

    def day(self, day: int) -> tuple[Tensor, Tensor]:
        """Inputs, float32 of (flights, inputs), and labels of (flights,), of a day of the year."""
        rows = {name: column[self._slices[day]] for name, column in self._table.items()}
        turn = rows["minute"] * (2 * math.pi / MINUTES)
        weather = ((rows["weather"] - _CENTRE) / _SPREAD).nan_to_num(0.0).clamp(-_LARGEST, _LARGEST)
        week = torch.full_like(rows["minute"], date.fromordinal(date(2013, 1, 1).toordinal() + day - 1).weekday())
        parts = [
            torch.stack([turn.sin(), turn.cos(), rows["minute"] / MINUTES, rows["distance"] / 1000], 1),
            weather,
            one_hot(week, _WEEK),
            one_hot(rows["carrier"], self._carriers),
            one_hot(rows["origin"], len(ORIGINS)),
            one_hot(rows["dest"], self._dests),
        ]
        return torch.cat([part.float() for part in parts], 1), (rows["delay"] > self._late).long()


def auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: the share of pairs of a late and a punctual flight in which the late one has the
    higher score; equal scores count half. 0.5 if all labels are equal.

    >>> auc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
    0.875
    """
    positive = int(labels.sum())
    pairs = positive * (len(labels) - positive)
    if not pairs:
        return 0.5
    _, where, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0).double() - (counts.double() - 1) / 2  # mean rank of equal scores, from 1
    total = float(ranks[where][labels == 1].sum())
    return (total - positive * (positive + 1) / 2) / pairs
