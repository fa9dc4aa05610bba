"""A-GEM: no step raises the loss on stored items, to first order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gnt._utils.settings import checked_settings, positive
from gnt._utils.state_dicts import Entry, check_saved_state
from gnt.replay._arguments import checked_buffer, checked_task, saved_task
from gnt.replay._projection import SAFE, GradientProjection, product_of, rescale
from gnt.replay._reference_gradients import Loss
from gnt.replay._step_batches import StepBatches
from gnt.replay.buffer import ReplayBuffer, Samples

STATE_VERSION = 1


@checked_settings(batch_size=positive)
class AGEM(GradientProjection):
    """Averaged gradient episodic memory: removes from the gradient what would raise the loss on stored items.

    With g the gradient of the current loss and r that of the mean loss on a batch drawn from the buffer::

        g - (g.r / r.r) r   if g.r < 0
        g                   otherwise

    as one vector over all parameters that require a gradient. As a method of a learner it needs nothing else, and
    should be the last of the list; in a loop of your own::

        agem = gnt.AGEM(net, gnt.ReplayBuffer(500), criterion)              # 1
        loss.backward(); agem.project(); optimizer.step(); agem.add(x, y)   # 2

    If tasks are given (`begin_task`), the buffer stores them, and r is that of the other tasks only, as in the paper.
    Without tasks it is that of all stored items.

    r is computed in evaluation mode. Nothing else is touched: gradients and their hooks, statistics of
    normalization layers, random generators, and the features that an engine records are those of the current batch.

    Args:
        net: the network, called as ``net(x)``.
        buffer: stores the items.
        loss: (output, y) -> scalar, the mean over samples.
        batch_size: number of drawn items; fewer while the buffer holds fewer, of other tasks if tasks are given.
        task: the task of the batches that are added; `begin_task` changes it.
        forward: (x, task) -> output, in place of ``net(x)``, for a network with several heads; ``task`` holds the task
            of each item.
        process_group: the processes that train together, as for `GnT`: r is the mean over them.

    Raises:
        TypeError: not a module, a buffer, or a function, or a parameter that is complex or a DTensor.
        ValueError: ``batch_size`` is not a positive integer, or no parameter requires a gradient.

    A parameter without gradient counts as one with gradient 0, and gets one if the projection changes it.
    With a GradScaler call ``scaler.unscale_(optimizer)`` before, or use `attach`.

    Source: Chaudhry et al., ICLR 2019 (arXiv 1812.00420), Eqs. 10 and 11.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(4, 3)
    >>> agem = gnt.AGEM(net, gnt.ReplayBuffer(100), torch.nn.functional.cross_entropy)
    >>> learner = gnt.Backprop(net, loss="cross_entropy", methods=[agem])
    >>> for task in range(2):
    ...     learner.begin_task(task=task)
    ...     for _ in range(3):
    ...         step = learner.learn(torch.randn(8, 4), torch.randint(3, (8,)))
    >>> len(agem.buffer)
    48
    """

    def __init__(
        self,
        net: nn.Module,
        buffer: ReplayBuffer,
        loss: Loss,
        *,
        batch_size: int = 256,
        task: int | None = None,
        forward: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        process_group: Any = None,
    ) -> None:
        self.batch_size = batch_size
        self.buffer = checked_buffer(buffer)
        super().__init__(net, loss, forward, process_group)
        self.task = checked_task(task)
        self._drawn: tuple[Samples | None] | None = None  # what the next projection uses, drawn before the batch came
        self._batches = StepBatches()  # of a learner, until their step was made
        self._before_draw: Tensor | None = None  # the generator's state, if the step may not be made

    def begin_task(self, task: int | None = None) -> None:
        """Store the next batches as those of a task, and constrain by those of other tasks.

        Raises:
            TypeError: not an integer or None.
        """
        self.task = self.task if task is None else checked_task(task)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add a batch to the buffer, as one of the current task; errors as `ReplayBuffer.add`."""
        self.buffer.add(x, y, self.task)

    def before_batch(self, x: Tensor, y: Tensor) -> None:
        """Draw the items for this step. Hook of learners, which add the batch in `after_step`.

        Raises:
            TypeError, ValueError: as `ReplayBuffer.add`. Nothing is changed.
        """
        self.buffer.check(x, y, self.task)
        if not self._batches.kept:
            self._before_draw = self.buffer.generator.get_state()
            self._drawn = (self._draw(),)
        self._batches.note(x, y)

    def keep_batch(self) -> None:
        """Hook for gradient accumulation: another batch of the same step follows, and `after_step` adds all of them."""
        self._batches.keep()

    def after_step(self) -> None:
        """Hook of learners: add the batch to the buffer."""
        for x, y in self._batches.take():
            self.add(x, y)
        self._before_draw = None

    def discard(self) -> None:
        """Drop the batch of a step that failed, and the items drawn for it; undo the draws."""
        if self._before_draw is not None:
            self.buffer.generator.set_state(self._before_draw)
        self._drawn = self._before_draw = None
        self._batches.drop()

    def _draw(self) -> Samples | None:
        """Items of other tasks; None if there are none."""
        if not len(self.buffer):
            return None
        drawn = self.buffer.sample(self.batch_size, other_than=self.task)
        return drawn if len(drawn.x) else None

    def project(self) -> None:
        """Remove from ``.grad`` what would raise the loss on drawn items; nothing while there are none.

        Called once between backward and step, after other changes of gradients.

        Raises:
            RuntimeError: there are no gradients.
            TypeError: sparse gradients.
            ValueError: items were stored in another dtype than the network now takes. Nothing is changed.
            FloatingPointError: the gradient on drawn items is not finite (checked on the CPU). Nothing is changed.
        """
        super().project()

    def before_optimizer_step(self, scale: Tensor | None) -> None:
        """Hook of `attach`: `project`."""
        if self._drawn is None:  # `before_batch` has drawn otherwise
            self._before_draw = None if scale is None else self.buffer.generator.get_state()
        super().before_optimizer_step(scale)

    def after_optimizer_step(self, skipped: bool) -> None:
        """Hook of `attach`: a step that a GradScaler has skipped draws nothing."""
        if skipped and self._before_draw is not None:
            self.buffer.generator.set_state(self._before_draw)
        self._before_draw = None

    @torch.no_grad()
    def _project(self, scale: float) -> None:  # g - (g.r / r.r) r is the same for any scale of g
        parameters = self._parameters()
        gradients = self._gradients(parameters)
        drawn = self._draw() if self._drawn is None else self._drawn[0]
        self._drawn = None
        batch = None if drawn is None else (drawn, drawn.task)
        (row,) = self._references([batch], parameters)
        if all(each is None for each in row):
            return
        product = product_of(row, gradients)
        new = [(p, r) for p, g, r in zip(parameters, gradients, row, strict=True) if g is None and r is not None]
        on_cpu = product.device.type == "cpu"
        if (new or on_cpu) and 0 <= product < math.inf:
            return
        square = product_of(row, row)
        if not on_cpu or not SAFE < square < 1 / SAFE:
            rescale(row)
            product, square = product_of(row, gradients), product_of(row, row)
        if on_cpu and not math.isfinite(square):
            raise FloatingPointError("the gradient on stored items is not finite; .grad is unchanged")
        if (new or on_cpu) and not product < 0:
            return
        factor = torch.where(product < 0, -product / square, 0.0)
        for parameter, reference in new:
            parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(reference * factor)
        pairs = [(g, r) for g, r in zip(gradients, row, strict=True) if g is not None and r is not None]
        changed, references = [g for g, _ in pairs], [r for _, r in pairs]
        if on_cpu:
            torch._foreach_add_(changed, references, alpha=float(factor))
        else:  # without waiting for the device
            torch._foreach_add_(changed, torch._foreach_mul(references, factor))

    def state_dict(self) -> dict[str, Any]:
        """The buffer's state, which includes its items, and the task."""
        return {"version": STATE_VERSION, "task": self.task, "buffer": self.buffer.state_dict()}

    def checked_state(self, state_dict: Any) -> dict[str, Any]:
        """Check a saved state, changing nothing; the result goes to `load_checked_state`."""

        def items(entry: Entry, value: Any) -> Any:
            generator = torch.Generator()
            ReplayBuffer(
                self.buffer.size, balance=self.buffer.balance, generator=generator, device=self.buffer.device
            ).load_state_dict(value)
            return value

        kinds = {"task": saved_task, "buffer": items}
        return check_saved_state(state_dict, "AGEM.state_dict()", kinds, STATE_VERSION)

    def load_checked_state(self, state: dict[str, Any]) -> None:
        """Load a checked state."""
        self.buffer.load_state_dict(state["buffer"])
        self.task, self._drawn, self._before_draw = state["task"], None, None

    def __repr__(self) -> str:
        return f"AGEM({self.buffer!r}, batch_size={self.batch_size}, task={self.task})"
