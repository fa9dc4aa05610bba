"""Detection of optimizer steps that did not happen, so that their features are not counted.

A skipped optimizer step does not age or replace units and drops its features.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle, unserializable_hook

from gnt._utils.dynamo import not_compiled
from gnt.distributed import dtensor


def step_was_skipped(optimizer: Optimizer) -> bool:
    """True if a GradScaler made this step of a fused optimizer do nothing because a gradient was not finite.

    A GradScaler does not call the step of other optimizers at all in that case. Reading the flag waits for the device,
    as the scaler itself does for other optimizers.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())


class HoldsFeatures(Protocol):
    """An object that keeps features until an optimizer step."""

    def after_backward(self, *, restarted: bool) -> None:
        """Note that a backward has run; ``restarted``: gradients did not accumulate on earlier ones."""


class BackwardWatch:
    """Watches the gradient of one parameter to find out that features were abandoned.

    A GradScaler that skips a step does not call the optimizer. The only sign is the gradient: after ``zero_grad`` it
    starts again, whereas over accumulated micro-batches it is added to in place.

    With several processes, gradients are averaged in place and are views of shared buffers. There, gradients have
    restarted if the parameter had no gradient before the backward.

    Args:
        features: told after each backward; held by a weak reference.
        param: the parameter whose gradient is watched.
    """

    def __init__(self, features: HoldsFeatures, param: Tensor) -> None:
        self._features = weakref.ref(features)  # the hook outlives engine and optimizer if only the network is kept
        self._grad: weakref.ref[Tensor] | None = None
        self._version = 0
        self._had_no_grad: bool | None = None  # before the backward; None: not recorded
        self._records_before = False
        register: Callable[..., RemovableHandle] = param.register_post_accumulate_grad_hook
        self._handles = [register(self._after_backward)]
        self._record_before_backward(param)

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _record_before_backward(self, param: Tensor) -> None:
        """With several processes, register a hook that records whether the parameter has a gradient."""
        if self._records_before or not _distributed() or dtensor.is_dtensor(param):
            return
        self._records_before = True
        reference = weakref.ref(param)
        register: Callable[..., RemovableHandle] = param.register_hook
        # the network is saved and copied without this hook, and without a warning about it
        hook: Any = unserializable_hook(lambda _: self._before_backward(reference()))  # type: ignore[no-untyped-call]
        self._handles.append(register(hook))

    def _before_backward(self, param: Tensor | None) -> None:
        self._had_no_grad = param is None or param.grad is None

    @not_compiled
    def _after_backward(self, param: Tensor) -> None:
        grad = param.grad
        same = grad is not None and self._grad is not None and self._grad() is grad
        if self._had_no_grad is not None:
            accumulated, self._had_no_grad = not self._had_no_grad, None
        elif grad is not None and dtensor.is_dtensor(grad):
            accumulated = same
        else:
            # one in-place addition and no other change since: neither zeroed in place nor unscaled
            accumulated = same and grad is not None and grad._version == self._version + 1
        features = self._features()
        if features is not None:
            features.after_backward(restarted=not accumulated)
        if grad is not None:
            self._grad, self._version = weakref.ref(grad), grad._version
        self._record_before_backward(param)  # the process group may have been initialised after the engine was built


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
