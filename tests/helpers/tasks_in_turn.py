"""A network of which each forward runs some tasks only, so that consumers and whole groups take part in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnt.units import Slot, UnitGroup

TANH = ("tanh", None)


class TasksInTurn(nn.Module):
    """A shared layer of 7 units, which each task reads in its own way.

    Tasks 0 and 1 have a hidden layer each. Task 2 reads the units together with the input, task 3 together with their
    squares; these are two taps.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Linear(4, 7)
        self.hidden = nn.ModuleList([nn.Linear(7, 5), nn.Linear(7, 6)])
        self.out = nn.ModuleList([nn.Linear(5, 2), nn.Linear(6, 2, bias=False)])
        self.wide, self.squares = nn.Linear(11, 2), nn.Linear(14, 2)
        self.double()

    def forward(self, x: Tensor, tasks: Sequence[int]) -> Tensor:
        h = torch.tanh(self.shared(x))
        outputs = [self._run(task, x, h) for task in tasks]
        return torch.stack(outputs).sum(0)

    def _run(self, task: int, x: Tensor, h: Tensor) -> Tensor:
        if task < 2:
            output: Tensor = self.out[task](torch.tanh(self.hidden[task](h)))
            return output
        read = self.wide(torch.cat([x, h], -1)) if task == 2 else self.squares(torch.cat([h, h * h], -1))
        assert isinstance(read, Tensor)
        return read

    def groups(self, tasks: Sequence[int]) -> list[UnitGroup]:
        """The groups of the layers that these tasks use, the shared layer first."""
        readers: dict[int, list[Slot]] = {
            0: [Slot("hidden.0", self.hidden[0], 7, dim=1)],
            1: [Slot("hidden.1", self.hidden[1], 7, dim=1)],
            2: [Slot("wide", self.wide, 7, dim=1, offset=4)],
            3: [
                Slot("squares", self.squares, 7, dim=1, tap=1),
                Slot("squares", self.squares, 7, dim=1, tap=2, offset=7),
            ],
        }
        consumers = tuple(slot for task in tasks for slot in readers[task])
        shared = UnitGroup("shared", 7, (Slot("shared", self.shared, 7),), consumers, activation=TANH)
        return [shared, *(self._hidden_group(task) for task in tasks if task < 2)]

    def _hidden_group(self, task: int) -> UnitGroup:
        producer, n = self.hidden[task], self.hidden[task].out_features
        slots = (Slot(f"hidden.{task}", producer, n),), (Slot(f"out.{task}", self.out[task], n, dim=1),)
        return UnitGroup(f"hidden.{task}", n, *slots, activation=TANH)
