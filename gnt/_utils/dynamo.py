"""Beside `torch.compile`: what must be seen by compiled code, and what must stay out of it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch._compile import _disable_dynamo

F = TypeVar("F", bound=Callable[..., object])


def not_compiled(function: F) -> F:
    """A function that runs as it is, where a whole training step is compiled: it depends on Python's own state.

    `torch.compiler.disable` does the same, but imports the compiler, which takes as long as torch itself, and costs
    microseconds a call. So it is asked only where compiled code is at work.
    """
    hidden = _disable_dynamo(function)

    @functools.wraps(function)
    def as_it_is(*args: Any, **kwargs: Any) -> object:
        if torch.compiler.is_dynamo_compiling() or get_eval_frame_callback() is not None:
            return hidden(*args, **kwargs)
        return function(*args, **kwargs)

    return as_it_is  # type: ignore[return-value]


def watch_hooks() -> None:
    """Make compiled code look at the hooks of modules, as it does at everything else.

    `torch.compile` does not by itself, so that a model that ran before an engine was built would leave the engine
    without features, and one of the same class would leave them with another's. With guards on hooks, networks of one
    class with engines share what is compiled. What was compiled before there were guards is compiled anew, once: an
    optimizer's first construction has imported the compiler, so that most programs have nothing of the kind.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.config.skip_nnmodule_hook_guards:
        dynamo.config.skip_nnmodule_hook_guards = False
        dynamo.reset()
