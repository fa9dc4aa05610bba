"""A hook after an optimizer's steps that copies and pickles of the optimizer do not carry along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class StepHook:
    """Calls a function after a step; a copy does nothing."""

    def __init__(self, function: Callable[[], None] | None = None) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> None:
        if self._function is not None:
            self._function()

    def __deepcopy__(self, memo: Any) -> StepHook:
        return StepHook()

    def __reduce__(self) -> tuple[Any, ...]:
        return StepHook, ()
