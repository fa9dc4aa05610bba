"""Arguments that have got another name, or that a class does not take although its base does."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from gnt._utils.stack_level import user_level

_Function = TypeVar("_Function", bound=Callable[..., Any])


def renamed_argument(old: str, new: str) -> Callable[[_Function], _Function]:
    """Decorator of a function whose argument ``new`` was called ``old``: that name is accepted, with a warning."""

    def decorator(function: _Function) -> _Function:
        @functools.wraps(function)
        def accepting(*arguments: Any, **named: Any) -> Any:
            if old in named and new not in named:
                warnings.warn(
                    f"the argument {old} of {function.__qualname__.removesuffix('.__init__')} is called {new}",
                    DeprecationWarning,
                    stacklevel=user_level(),
                )
                named[new] = named.pop(old)
            return function(*arguments, **named)

        return accepting  # type: ignore[return-value]

    return decorator


def refused_arguments(names: Iterable[str], reason: str) -> Callable[[_Function], _Function]:
    """Decorator of a function that raises TypeError for some unknown arguments; ``{}`` in the reason: those given."""
    refused = tuple(names)

    def decorate(function: _Function) -> _Function:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if given := [name for name in refused if name in named]:
                raise TypeError(reason.format(", ".join(given)))
            return function(*arguments, **named)

        return call  # type: ignore[return-value]

    return decorate
