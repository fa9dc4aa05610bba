"""Whether a training step adds the penalties that a callback cannot add for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from gnt.protection import HAT


class PenaltyCalls:
    """Notes during one batch which methods are asked for their penalty, and warns of the others.

    Only methods whose penalty is a part of the loss that ``training_step`` returns: those that are attached to the
    optimizer add its gradient themselves, and `HAT` raises an error of its own.

    Args:
        methods: the methods.
    """

    def __init__(self, methods: Iterable[Any]) -> None:
        self._methods = [
            each
            for each in methods
            if hasattr(each, "penalty") and not hasattr(each, "attach") and not isinstance(each, HAT)
        ]
        self._warned: list[Any] = []
        self._asked: list[Any] = []
        self._watched: list[Any] = []

    def watch(self) -> None:
        """Begin to note; methods that count tasks in ``tasks`` only if one has ended, others have no penalty yet."""
        self.stop()  # of a batch that was skipped
        self._asked = []
        for each in self._methods:
            if getattr(each, "tasks", True) and not any(each is other for other in self._warned):
                each.penalty = self._noting(each, each.penalty)
                self._watched.append(each)

    def _noting(self, method: Any, penalty: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any, **named: Any) -> Any:
            self._asked.append(method)
            return penalty(*arguments, **named)

        return noting

    def stop(self) -> list[Any]:
        """End to note; the methods that were not asked."""
        watched, self._watched = self._watched, []
        for each in watched:
            del each.penalty
        return [each for each in watched if not any(each is other for other in self._asked)]

    def warn(self) -> None:
        """End to note, and warn of the methods that were not asked, once of each."""
        for each in self.stop():
            self._warned.append(each)
            name = type(each).__name__
            arguments = ", ".join(inspect.signature(each.penalty).parameters)
            rank_zero_warn(
                f"the penalty of {name} is missing: training_step did not ask for it, and TaskBoundaries cannot add it "
                f"to a loss. Let training_step return loss + self.{name.lower()}.penalty({arguments}), with the {name} "
                "that TaskBoundaries has"
            )
