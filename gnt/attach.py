"""Attached to its optimizer, an engine acts after each of its steps and rides in its state_dict.

Nothing in the training loop changes: the optimizer's own hooks call the engine, so schedulers, gradient scalers,
clipping and trainers that wrap the optimizer work as they did.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from gnt import saving
from gnt.compiled import not_compiled
from gnt.intake import Intake
from gnt.skipping import Backwards, skipped

if TYPE_CHECKING:
    from gnt.engine import GnT

KEY = "gnt"


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

    @not_compiled
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
        else:
            warnings.warn(
                f"this state_dict of {type(optimizer).__name__} was saved without an engine: its units keep their ages",
                stacklevel=5,
            )
        return {name: value for name, value in state_dict.items() if name != KEY}

    def _load(self, optimizer: Optimizer) -> None:
        loading, self._loading = self._loading, None
        if loading is not None:
            self._engine.load_state_dict(loading)
