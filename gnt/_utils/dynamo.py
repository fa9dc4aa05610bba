"""Interaction with `torch.compile`: functions that run uncompiled, and hooks that compiled code must respect."""

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
    """Decorator that runs a function uncompiled inside a compiled training step.

    It has the effect of `torch.compiler.disable`, which imports the compiler (as slow as importing torch) and adds
    microseconds to each call. Here that cost arises only while compiled code runs.
    """
    disabled = _disable_dynamo(function)

    @functools.wraps(function)
    def uncompiled(*args: Any, **kwargs: Any) -> object:
        if torch.compiler.is_dynamo_compiling() or get_eval_frame_callback() is not None:
            return disabled(*args, **kwargs)
        return function(*args, **kwargs)

    return uncompiled  # type: ignore[return-value]


def watch_hooks() -> None:
    """Make compiled code check the hooks of modules.

    `torch.compile` does not check them by default: a model compiled before an engine registers its hooks would never
    call them, and code compiled for one network would call that network's hooks for another of the same class. With
    guards on hooks, networks of one class that have engines still share compiled code.

    Code compiled without these guards is discarded, once. Most programs have none: constructing an optimizer imports
    the compiler, so the first engine usually enables the guards before anything is compiled. Then nothing is
    discarded: with a GPU, `torch._dynamo.reset` imports the whole of inductor, which takes seconds.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.config.skip_nnmodule_hook_guards:
        dynamo.config.skip_nnmodule_hook_guards = False
        if dynamo.convert_frame.input_codes.seen:
            dynamo.reset()
