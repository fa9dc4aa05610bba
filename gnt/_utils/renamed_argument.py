"""Arguments that have got another name."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
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
