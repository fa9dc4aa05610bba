"""A step without the price of torch's wrapper around it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import _profiler_enabled  # type: ignore[attr-defined]
from torch.optim import Optimizer
from torch.optim import optimizer as torchs

Step = Callable[..., Any]


def lean(step: Step) -> Step:
    """Wrap an optimizer's ``step`` as torch does, for a tenth of the time.

    torch wraps each optimizer's step so that hooks run around it and a profiler sees its name. That costs as long as
    Adam takes for a small network. Where nothing is there to be called before the step and nobody looks on, just the
    hooks after it are called here; else the step is torch's.

    torch takes a function with the mark ``hooked`` for wrapped. Should it wrap this one all the same, or a subclass's
    step that calls it, the hooks are left to that wrapper.
    """
    by_torch: Step = Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def lean_step(self: Optimizer, closure: Callable[[], float] | None = None) -> Any:
        if type(self).step is not lean_step:
            return step(self, closure)
        if (
            closure is not None
            or torch.compiler.is_compiling()
            or _profiler_enabled()
            or self._optimizer_step_pre_hooks
            or torchs._global_optimizer_pre_hooks
        ):
            return by_torch(self) if closure is None else by_torch(self, closure)
        step(self)
        for hook in (*self._optimizer_step_post_hooks.values(), *torchs._global_optimizer_post_hooks.values()):
            hook(self, (self,), {})
        return None

    lean_step.hooked = True  # type: ignore[attr-defined]
    return lean_step


def unwrapped(step: Step) -> Step:
    """An optimizer's step without torch's wrapper, which is there as soon as one was made."""
    return step.__wrapped__ if getattr(step, "hooked", False) else step  # type: ignore[attr-defined]
