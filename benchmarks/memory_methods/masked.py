"""HAT, AdaHAT and FG-AdaHAT as methods of an experiment, alone and beside replacement of units."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import gnt

from .task_heads import TaskHeadsMethod


class MaskedMethod(TaskHeadsMethod):
    """A method whose first part learns a mask of the hidden units for each task, with an output layer for each task.

    The optimizer begins each task without a history if the setting ``new_optimizer`` is "yes".
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        # from the start, so that saved states of the optimizer have as many parameters before and after the first task
        self.learner.opt.add_param_group({"params": [self._hat.embedding]})

    @property
    def _hat(self) -> gnt.HAT:
        hat = self.learner.methods[0]
        assert isinstance(hat, gnt.HAT)
        return hat

    def _task_info(self) -> dict[str, Any]:
        return {"steps_per_epoch": self._steps // self._settings.epochs}

    def begin_task(self, number: int) -> None:
        """Learn a new mask from now on."""
        if self._settings.new_optimizer == "yes":
            self.learner.opt.state.clear()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no capacity is left")  # what the experiment measures
            super().begin_task(number)

    def _plain_net(self) -> None:
        """None: the masks, not the weights, decide what a further task can learn."""

    @contextlib.contextmanager
    def _evaluated(self, number: int) -> Iterator[None]:
        with super()._evaluated(number), self._hat.use(number):
            yield
