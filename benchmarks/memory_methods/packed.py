"""PackNet as a method of an experiment: train, prune, retrain, each in a part of the steps of a task."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

import gnt

from ..saved_values import fields, integer
from .task_heads import TaskHeadsMethod


class PackedMethod(TaskHeadsMethod):
    """`gnt.PackNet` on a network with a head for each task. A share of the steps of a task, the setting ``retrain``,
    comes after pruning.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._packnet = gnt.PackNet(self.learner.net, prune=self._settings.prune)
        self.learner.methods = [self._packnet]
        self._prune_after = round((1 - self._settings.retrain) * self._steps)
        self._done = 0  # steps of this task

    def begin_task(self, number: int) -> None:
        """Train the free weights from now on."""
        self._done = 0
        super().begin_task(number)

    def learn(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As `MemoryMethod.learn`; prunes after the step with the number that ``retrain`` leaves."""
        result = super().learn(x, y)
        self._done += 1
        if self._done == self._prune_after:
            self._packnet.prune()
        return result

    def _plain_net(self) -> None:
        """None: a further task trains the free weights only."""

    @contextlib.contextmanager
    def _evaluated(self, number: int) -> Iterator[None]:
        with super()._evaluated(number), self._packnet.use(number):
            yield

    def state_dict(self) -> dict[str, Any]:
        """As `TaskHeadsMethod.state_dict`, with the number of the task's steps so far."""
        return {**super().state_dict(), "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises ValueError if a part is missing or is not of its kind."""
        fields(done=integer(0, self._steps))("method", state)
        super().load_state_dict(state)
        self._done = state["done"]
