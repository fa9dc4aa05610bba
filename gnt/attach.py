"""Attached to its optimizer, an engine acts after each of its steps and rides in its state_dict.

Nothing in the training loop changes: the optimizer's own hooks call the engine, so schedulers, gradient scalers,
clipping and trainers that wrap the optimizer work as they did.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gnt import saving
from gnt.intake import Intake

if TYPE_CHECKING:
    from gnt.engine import GnT

KEY = "gnt"


def skipped(optimizer: Optimizer) -> bool:
    """Whether a GradScaler made this step of a fused optimizer do nothing, because a gradient was not finite.

    It does not step other optimizers at all then. Asking waits for the device, as the scaler itself does for those.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())


class Backwards:
    """Watches one parameter's gradient, so that features whose gradients were given up do not wait for ever.

    A GradScaler that skips a step does not call the optimizer: nothing tells of it but the gradients, which begin anew
    before the next backward (``zero_grad``) where those of accumulated micro-batches are added up.
    """

    def __init__(self, intake: Intake, param: Tensor) -> None:
        self._intake = weakref.ref(intake)  # the hook stays with the network when engine and optimizer are dropped
        self._grad: weakref.ref[Tensor] | None = None
        self._version = 0
        register: Callable[..., RemovableHandle] = param.register_post_accumulate_grad_hook
        self.handle = register(self._after_backward)

    def _after_backward(self, param: Tensor) -> None:
        grad = param.grad
        same = grad is not None and self._grad is not None and self._grad() is grad
        # added to once and else left alone: neither zeroed in place nor unscaled since
        added = same and grad is not None and grad._version == self._version + 1
        intake = self._intake()
        if intake is not None:
            intake.after_backward(anew=not added)
        if grad is not None:
            self._grad, self._version = weakref.ref(grad), grad._version


class Attachment:
    """The hooks of one engine on one optimizer."""

    def __init__(self, engine: GnT, optimizer: Optimizer, intake: Intake) -> None:
        self._engine = engine
        self._loading: dict[str, Any] | None = None
        self._handles = [
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_state_dict_post_hook(self._save),
            optimizer.register_load_state_dict_pre_hook(self._check),
            optimizer.register_load_state_dict_post_hook(self._load),
        ]
        self._handles.append(Backwards(intake, engine.groups[0].incoming[0].weight).handle)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if skipped(optimizer):
            self._engine.discard()
        elif self._engine.waiting:
            self._engine.step()

    def _save(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, KEY: self._engine.state_dict()}

    def _check(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Refuse the state of another engine before the optimizer takes its own."""
        self._loading = state_dict.get(KEY)
        if self._loading is not None:
            saving.check(self._loading, self._engine.groups, self._engine.utility)
        elif not self._engine.loaded:  # a distributed checkpoint holds the engine's state beside the optimizer's
            warnings.warn(
                f"this state_dict of {type(optimizer).__name__} was saved without an engine: its units keep their ages",
                stacklevel=5,
            )
        return {name: value for name, value in state_dict.items() if name != KEY}

    def _load(self, optimizer: Optimizer) -> None:
        loading, self._loading = self._loading, None
        if loading is not None:
            self._engine.load_state_dict(loading)
