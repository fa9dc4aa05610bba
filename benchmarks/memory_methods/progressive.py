"""Progressive networks as a method of an experiment: a new column for each task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

import gnt

from ..methods import with_seed
from ..saved_values import fields, integer
from ..seeds import stream
from .heads import in_place, outputs_of
from .method import MemoryMethod
from .scenario import Scenario


class Columns(nn.Module):
    """A `gnt.ProgressiveNet` whose columns have the sizes of a network, with the outputs of all tasks.

    Attributes:
        task: the column whose outputs are computed; those of all others are 0.
    """

    def __init__(self, net: nn.Module, scenario: Scenario) -> None:
        super().__init__()
        first, *others = [layer for layer in net.children() if isinstance(layer, nn.Linear)]
        self.net = gnt.ProgressiveNet(
            first.in_features, [first.out_features, *(each.out_features for each in others[:-1])]
        )
        self._scenario, self.task = scenario, 0
        self.add_column()

    def add_column(self) -> nn.Module:
        """A column for the next task, whose parameters are those to train."""
        own = self._scenario.own_outputs(len(self.net.columns))
        assert own is not None
        return self.net.add_column(own.stop - own.start)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of the task at their places among those of all tasks."""
        return in_place(self.net(x, self.task), self.task, self._scenario)


class ProgressiveMethod(MemoryMethod):
    """`gnt.ProgressiveNet`: the optimizer trains the newest column, from new weights and without a history."""

    def _own_net(self, net: nn.Module) -> nn.Module:
        return Columns(net, self._scenario)

    @property
    def _net(self) -> Columns:
        return _columns(self.learner.net)

    def begin_task(self, number: int) -> None:
        """Train a new column from now on."""
        self._add_columns(number + 1)
        super().begin_task(number)

    def _add_columns(self, count: int) -> None:
        net = self._net
        make_optimizer: Callable[..., Optimizer] = type(self.learner.opt)
        while len(net.net.columns) < count:
            number = len(net.net.columns)
            seed = stream(self._seed, f"column of task {number}").initial_seed()
            column = with_seed(seed, net.add_column)
            self.learner.opt = make_optimizer(column.parameters(), lr=self._settings.lr)
        net.task = count - 1

    def _evaluated(self, number: int) -> contextlib.AbstractContextManager[None]:
        return outputs_of(self._net, number)

    def _plain_net(self) -> None:
        """None: a further task has a new column."""

    def units(self, net: nn.Module, x: Tensor) -> Any:
        """The unit groups of the newest column."""
        return gnt.trace(net, x[:2], include=f"net.{_columns(net).net.newest}")

    def state_dict(self) -> dict[str, Any]:
        """As `MemoryMethod.state_dict`, with the number of columns."""
        return {**super().state_dict(), "columns": len(self._net.net.columns)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises ValueError if a part is missing or is not of its kind."""
        least = len(self._net.net.columns)
        fields(columns=integer(least, self._scenario.tasks))("method", state)
        self._add_columns(state["columns"])
        super().load_state_dict(state)


def _columns(net: nn.Module) -> Columns:
    assert isinstance(net, Columns)
    return net
