"""The scale of recorded gradients: that of the GradScaler which calls the optimizer's step.

A GradScaler multiplies the loss by its scale before the backward, and divides the gradients of parameters by it before
the optimizer's step. Gradients of features stay scaled, so the scale is noted when the scaler calls the step: it may
change right after it. This does not wait for the device. The scaler of a loop that divides the gradients of parameters
and calls the optimizer's step itself cannot be found; such a loop names it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gnt._utils.dynamo import not_compiled

_STEP = GradScaler.step.__code__


class HoldsGradients(Protocol):
    """An object that keeps gradients of features until an update.

    Attributes:
        gradient_scale: 0-d, by which they are larger than those of the loss; None: they are not.
        grad_scaler: a GradScaler that has scaled the loss, also if it does not call the optimizer's step.
    """

    gradient_scale: Tensor | None
    grad_scaler: GradScaler | None

    def weights(self) -> Iterable[Tensor]:
        """The weights whose optimizer's step comes before the update."""


_holders: weakref.WeakSet[Any] = weakref.WeakSet()
_hooks: list[Any] = []


def note_scale_for(holder: HoldsGradients) -> None:
    """From now on set ``gradient_scale`` in each step of an optimizer that a GradScaler calls."""
    _holders.add(holder)
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before_any_step))


@not_compiled
def _before_any_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    caller = _calling_scaler() if _holders else None
    holders = [each for each in _holders if caller is not None or each.grad_scaler is not None]
    if holders:
        params = {id(param) for options in optimizer.param_groups for param in options["params"]}
        for holder in holders:
            if any(id(weight) in params for weight in holder.weights()):
                holder.gradient_scale = scale_of(caller or holder.grad_scaler)


def _calling_scaler() -> GradScaler | None:
    """The GradScaler that is calling the optimizer's step, if one is."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _STEP:
            scaler: GradScaler = frame.f_locals["self"]
            return scaler
        frame = frame.f_back
    return None


def scale_of(scaler: GradScaler | None) -> Tensor | None:
    """A copy of the scale of a GradScaler, without waiting for the device; None if it does not scale."""
    scale = None if scaler is None else scaler._scale
    return scale.detach().clone() if isinstance(scale, Tensor) else None


def check_grad_scaler(value: Any) -> None:
    """Raise TypeError for anything but a GradScaler or None."""
    if value is not None and not isinstance(value, GradScaler):
        raise TypeError(f"grad_scaler must be a torch.amp.GradScaler or None, got {type(value).__name__}")
