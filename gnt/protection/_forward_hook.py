"""A forward hook that copies and pickles of a network do not carry along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class ForwardHook:
    """Calls a function with each module before its forward; a copy does nothing."""

    def __init__(self, function: Callable[[nn.Module], None] | None = None) -> None:
        self._function = function

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if self._function is not None:
            self._function(module)

    def __deepcopy__(self, memo: Any) -> ForwardHook:
        return ForwardHook()

    def __reduce__(self) -> tuple[Any, ...]:
        return ForwardHook, ()
