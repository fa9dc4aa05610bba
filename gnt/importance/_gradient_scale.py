"""The scale of recorded gradients: that of the GradScaler which calls the optimizer's step.

A GradScaler multiplies the loss by its scale before the backward, and divides the gradients of parameters by it before
the optimizer's step. Gradients of features stay scaled, so the scale is noted when the scaler calls the step: it may
change right after it. This does not wait for the device. The gradients of a loop that divides them and calls the
optimizer's step itself are not recognised as scaled.
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
    """

    gradient_scale: Tensor | None

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
    scale = _scale_of_caller() if _holders else None
    if scale is not None:
        params = {id(param) for options in optimizer.param_groups for param in options["params"]}
        for holder in list(_holders):
            if any(id(weight) in params for weight in holder.weights()):
                holder.gradient_scale = scale


def _scale_of_caller() -> Tensor | None:
    """A copy of the scale of the GradScaler that is calling the optimizer's step, if one is."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _STEP:
            scale = frame.f_locals["self"]._scale
            return scale.detach().clone() if isinstance(scale, Tensor) else None
        frame = frame.f_back
    return None
