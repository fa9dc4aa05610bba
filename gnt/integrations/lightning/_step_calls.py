"""The calls of methods around the steps of one optimizer, of which each may have several batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gnt.importance import step_was_skipped
from gnt.learners import Methods


class StepCalls:
    """Calls `before_batch`, `keep_batch`, `after_backward`, `after_step` and `discard` of methods.

    With gradient accumulation a step has several batches: `keep_batch` is called after each that no step follows. If
    the step is not made, because a GradScaler skips it or the epoch ends, `discard` is called.

    Methods with ``attach`` act around the step by themselves, but those that also take the batches (`gnt.AGEM`,
    `gnt.GEM`) store them in `after_step`.

    Args:
        methods: the methods.
    """

    def __init__(self, methods: Methods) -> None:
        self._methods = methods
        self._detach: list[Callable[[], Any]] = []
        self._open = False  # a batch has begun, and its step was not made
        self._due = False  # a step was to be made since the latest batch began

    def attach(self, optimizer: Optimizer, *, scaled: bool) -> None:
        """Act around the steps of this optimizer, and no more around those of the one before.

        Args:
            optimizer: the optimizer.
            scaled: gradients are scaled until the optimizer's step.

        Raises:
            ValueError: scaled gradients for a method that is called before the step.
        """
        if scaled and (calls := self._before_step()):
            raise ValueError(
                f"{type(calls[0].__self__).__name__} has {calls[0].__name__}, which would get gradients that are "
                f"multiplied by the factor of the GradScaler: give {type(optimizer).__name__} fused=False"
            )
        for detach in self._detach:
            detach()
        self._detach = []
        for each in self._methods:
            if hasattr(each, "attach"):
                attached = each.attach(optimizer)
                self._detach.append(each.detach if hasattr(each, "detach") else attached.remove)
            if hasattr(each, "after_step") and (hasattr(each, "before_batch") or not hasattr(each, "attach")):
                self._detach.append(_after_each_step(optimizer, each.after_step))
        self._detach.append(_after_each_step(optimizer, self._close))

    def begin_batch(self, *, starts_step: bool | None) -> None:
        """A batch begins.

        Args:
            starts_step: True if the gradients of earlier batches are cleared before its backward pass; None if that is
                not known: it does if a step was to be made after the batch before.
        """
        if self._due if starts_step is None else starts_step:
            self.discard()
        self._open, self._due = True, False

    def before_batch(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The batch to learn from; errors as `Methods.before_batch`."""
        return self._methods.before_batch(x, y)

    def before_optimizer_step(self) -> None:
        """The gradients of a step are complete and not scaled."""
        self._due = True
        for function in self._before_step():
            function()

    def _before_step(self) -> list[Any]:
        """What is called when the gradients of a step are complete, as in a learner.

        Penalties of methods that have ``penalty``, too, are part of the loss that ``training_step`` returns.
        """
        own = Methods(each for each in self._methods if not hasattr(each, "attach"))
        added = [each.penalty_backward for each in own.having("penalty_backward") if not hasattr(each, "penalty")]
        return added + [each.after_backward for each in own.having("after_backward")]

    def end_batch(self) -> None:
        """A batch ends: if no step was made, methods keep it for a later one."""
        if self._open:
            for each in self._methods.having("keep_batch"):
                each.keep_batch()

    def discard(self) -> None:
        """Drop what methods have recorded for a step that is not made; nothing after a step."""
        if self._open:
            self._close()
            self._methods.discard()

    def _close(self) -> None:
        self._open = self._due = False


def _after_each_step(optimizer: Optimizer, function: Callable[[], Any]) -> Callable[[], Any]:
    """Call a function after each step of an optimizer that a GradScaler has not skipped; the result ends it."""

    def after_step(*arguments: Any) -> None:
        if not step_was_skipped(optimizer):
            function()

    return optimizer.register_step_post_hook(after_step).remove
