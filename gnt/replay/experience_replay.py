"""Experience replay: each step learns from the current batch and from stored items."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnt._utils.settings import checked_settings
from gnt._utils.state_dicts import Kind, check_saved_state
from gnt.replay._arguments import batch_size_setting, checked_buffer, checked_task, saved_task
from gnt.replay._step_batches import StepBatches
from gnt.replay.buffer import ReplayBuffer

STATE_VERSION = 1


@checked_settings(batch_size=batch_size_setting)
class ExperienceReplay:
    """Experience replay: learn from the current batch joined with items drawn from a buffer.

    With B the current batch and M drawn items, the loss is the mean over all len(B) + len(M) samples. Items are drawn
    before the current batch is added. As a method of a learner it needs nothing else; in a loop of your own::

        replay = gnt.ExperienceReplay(gnt.ReplayBuffer(500))    # 1
        loss = criterion(*forward(*replay(x, y)))               # 2: replay(x, y) is the joined batch

    Args:
        buffer: stores the items.
        batch_size: number of drawn items; None: as many as the current batch has. Fewer while the buffer holds fewer.
        task: the task of the batches that are added, if the buffer stores tasks; `begin_task` changes it.

    Raises:
        TypeError: not a `ReplayBuffer`, or a ``task`` that is not an integer.
        ValueError: ``batch_size`` is not a positive integer.

    The output of `Step` then is that of the joined batch, the current samples first. Normalization statistics are those
    of the joined batch, too.

    Source: Chaudhry et al., arXiv 1902.10486.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(4, 3)
    >>> replay = gnt.ExperienceReplay(gnt.ReplayBuffer(100))
    >>> learner = gnt.Backprop(net, loss="cross_entropy", methods=[replay])
    >>> for _ in range(3):
    ...     step = learner.learn(torch.randn(8, 4), torch.randint(3, (8,)))
    >>> step.output.shape, len(replay.buffer)
    (torch.Size([16, 3]), 24)
    """

    keeps_samples = True  # task hooks of learners do not copy its state

    def __init__(self, buffer: ReplayBuffer, batch_size: int | None = None, *, task: int | None = None) -> None:
        self.buffer, self.batch_size = checked_buffer(buffer), batch_size
        self.task = checked_task(task)
        self._batches = StepBatches()  # of a learner, until their step was made
        self._before_draw: Tensor | None = None  # the generator's state, until the step was made

    def begin_task(self, task: int | None = None) -> None:
        """Store the next batches as those of a task."""
        self.task = self.task if task is None else checked_task(task)

    def before_batch(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The current batch joined with drawn items. Hook of learners, which add the batch in `after_step`.

        Args:
            x, y: the batch, samples first.

        Raises:
            ValueError, TypeError: as `ReplayBuffer.add`. Nothing is changed.
        """
        self.buffer.check(x, y, self.task)
        count = len(x) if self.batch_size is None else self.batch_size
        if not self._batches.kept:
            self._before_draw = self.buffer.generator.get_state()
        drawn = self.buffer.sample(count) if len(self.buffer) and count else None
        self._batches.note(x, y)
        if drawn is None:
            return x, y
        return torch.cat([x, drawn.x.to(x.device)]), torch.cat([y, drawn.y.to(y.device)])

    def keep_batch(self) -> None:
        """Hook for gradient accumulation: another batch of the same step follows, and `after_step` adds all of them."""
        self._batches.keep()

    def after_step(self) -> None:
        """Hook of learners: add the batch to the buffer."""
        for x, y in self._batches.take():
            self.buffer.add(x, y, self.task)
        self._before_draw = None

    def discard(self) -> None:
        """Hook of learners: forget the batch of a step that failed, and undo its draws."""
        if self._before_draw is not None:
            self.buffer.generator.set_state(self._before_draw)
        self._before_draw = None
        self._batches.drop()

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The current batch joined with drawn items; adds the current batch to the buffer.

        Args, Raises:
            as `before_batch`.
        """
        joined = self.before_batch(x, y)
        self.after_step()
        return joined

    def state_dict(self) -> dict[str, Any]:
        """The current task, and the buffer's state, which includes its items."""
        return {"version": STATE_VERSION, "task": self.task, "buffer": self.buffer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`.

        Raises:
            ValueError: not the result of `state_dict`, or as `ReplayBuffer.load_state_dict`. Nothing is changed.
        """
        kinds: dict[str, Kind] = {"task": saved_task, "buffer": lambda _, saved: saved}
        checked = check_saved_state(state_dict, "ExperienceReplay.state_dict()", kinds, STATE_VERSION)
        self.buffer.load_state_dict(checked["buffer"])
        self.task = checked["task"]

    def __repr__(self) -> str:
        return f"ExperienceReplay({self.buffer!r}, batch_size={self.batch_size})"
