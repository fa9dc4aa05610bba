"""An importance that is updated after each step of an optimizer."""

from __future__ import annotations

from typing import Any, Protocol

from torch.optim import Optimizer

from gnt._utils.dynamo import not_compiled
from gnt.importance._backward_watch import GroupWatches, step_was_skipped
from gnt.importance._feature_buffer import FeatureBuffer
from gnt.units import UnitGroup


class UpdatedAfterSteps(Protocol):
    """What is updated with the features of each optimizer step."""

    groups: tuple[UnitGroup, ...]
    feature_buffer: FeatureBuffer

    def discard(self) -> None:
        """Drop the recorded features."""

    def update_recorded(self) -> None:
        """Update with the recorded features; does nothing without."""


class AfterOptimizerStep:
    """Updates an importance after each step of an optimizer, before other hooks of that step.

    Args:
        importance: what is updated.
        optimizer: the optimizer.
    """

    def __init__(self, importance: UpdatedAfterSteps, optimizer: Optimizer) -> None:
        self._importance, self.optimizer = importance, optimizer
        self._watches = GroupWatches(importance.groups, importance.feature_buffer.by_group())
        self._handle = optimizer.register_step_post_hook(self._update)
        # an engine that replaces units after this step must do so after they were measured
        hooks: Any = optimizer._optimizer_step_post_hooks
        hooks.move_to_end(self._handle.id, last=False)
        importance.feature_buffer.require_backward()

    @not_compiled
    def _update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if step_was_skipped(optimizer):
            self._importance.discard()
            return
        self._watches.drop_abandoned()
        self._importance.update_recorded()

    def remove(self) -> None:
        """Remove the hooks."""
        self._handle.remove()
        self._watches.remove()
