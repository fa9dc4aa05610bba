"""Steps that did not happen: what a GradScaler skips shall age nobody, replace nobody, and leave no features behind."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle, unserializable_hook

from gnt._utils.dynamo import not_compiled
from gnt.distributed import _dtensor as shards


def skipped(optimizer: Optimizer) -> bool:
    """Whether a GradScaler made this step of a fused optimizer do nothing, because a gradient was not finite.

    It does not step other optimizers at all then. Asking waits for the device, as the scaler itself does for those.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())


class Waits(Protocol):
    """Something that keeps features until a step."""

    def after_backward(self, *, anew: bool) -> None:
        """What waits now has its gradients; where they began ``anew``, what had its own before was given up."""


class Backwards:
    """Watches one parameter's gradient, so that features whose gradients were given up do not wait for ever.

    A GradScaler that skips a step does not call the optimizer: nothing tells of it but the gradients, which begin anew
    before the next backward (``zero_grad``) where those of accumulated micro-batches are added up.

    Where several processes train, gradients are averaged in place, and are parts of shared buffers: whether they begin
    anew is told there by whether any stood before the backward.
    """

    def __init__(self, waits: Waits, param: Tensor) -> None:
        self._waits = weakref.ref(waits)  # the hook stays with the network when engine and optimizer are dropped
        self._grad: weakref.ref[Tensor] | None = None
        self._version = 0
        self._none_before: bool | None = None  # no gradient stood there before this backward
        self._asks_before = False
        register: Callable[..., RemovableHandle] = param.register_post_accumulate_grad_hook
        self._handles = [register(self._after_backward)]
        self._ask_before(param)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _ask_before(self, param: Tensor) -> None:
        """Ask before each backward whether a gradient stands there, once there are several processes."""
        if self._asks_before or not _several_processes() or shards.is_sharded(param):
            return
        self._asks_before = True
        here = weakref.ref(param)
        before: Callable[..., RemovableHandle] = param.register_hook
        # a network with this hook is saved and copied without it, and without a warning
        hook: Any = unserializable_hook(lambda _: self._before_backward(here()))  # type: ignore[no-untyped-call]
        self._handles.append(before(hook))

    def _before_backward(self, param: Tensor | None) -> None:
        self._none_before = param is None or param.grad is None

    @not_compiled
    def _after_backward(self, param: Tensor) -> None:
        grad = param.grad
        same = grad is not None and self._grad is not None and self._grad() is grad
        if self._none_before is not None:
            added, self._none_before = not self._none_before, None
        elif grad is not None and shards.is_sharded(grad):
            added = same
        else:
            # added to once and else left alone: neither zeroed in place nor unscaled since
            added = same and grad is not None and grad._version == self._version + 1
        waits = self._waits()
        if waits is not None:
            waits.after_backward(anew=not added)
        if grad is not None:
            self._grad, self._version = weakref.ref(grad), grad._version
        self._ask_before(param)  # an engine may be older than its process group


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized()
