"""DER and DER++: replay with the network's outputs of the time when an item was learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnt._utils.settings import checked_settings, non_negative
from gnt.replay._arguments import batch_size_setting, checked_buffer
from gnt.replay._step_batches import StepBatches
from gnt.replay.buffer import ReplayBuffer, Samples


@checked_settings(alpha=non_negative, beta=non_negative, batch_size=batch_size_setting)
class DER:
    """Dark experience replay: keeps the network's outputs on stored items near those of the time of storage.

    The penalty, which is added to the loss of the current batch, is::

        alpha * mean over (x', z') of ||net(x') - z'||^2  +  beta * mean over (x'', y'') of loss(net(x''), y'')

    with two independent draws from the buffer; z are the outputs that the network gave in the step in which the item
    was added, in training mode. ``beta = 0`` is DER, ``beta > 0`` is DER++. The distance is summed over outputs, as
    printed in the paper; code that uses a mean over outputs (Mammoth) has an alpha that is larger by their number.

    As a method of a learner it needs nothing else; in a loop of your own::

        der = gnt.DER(net, gnt.ReplayBuffer(500))                       # 1
        output = net(x); loss = criterion(output, y) + der(x, y, output)        # 2: also adds the batch to the buffer

    If the network has more outputs than an item has stored (a head that has grown), the new ones are left out.

    Args:
        net: the network, called as ``net(x)`` on drawn items.
        buffer: stores the items, each with a tensor "output".
        alpha: factor of the distance, >= 0.
        beta: factor of the loss of the second draw, >= 0.
        batch_size: number of items of each draw; None: as many as the current batch has.
        loss: the loss of the second draw, (output, y) -> scalar.

    Raises:
        TypeError: not a module, a buffer, or a function.
        ValueError: a factor or a batch size out of range.

    Source: Buzzega et al., NeurIPS 2020 (arXiv 2004.07211), Eqs. 6 and 7.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(4, 3)
    >>> learner = gnt.Backprop(net, loss="cross_entropy", methods=[gnt.DER(net, gnt.ReplayBuffer(100), beta=0.5)])
    >>> for _ in range(3):
    ...     step = learner.learn(torch.randn(8, 4), torch.randint(3, (8,)))
    >>> learner.methods[0].buffer.sample(4).more["output"].shape
    torch.Size([4, 3])
    """

    keeps_samples = True  # task hooks of learners do not copy its state

    def __init__(
        self,
        net: nn.Module,
        buffer: ReplayBuffer,
        *,
        alpha: float = 0.5,
        beta: float = 0.0,
        batch_size: int | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        if not callable(loss):
            raise TypeError(f"loss must be a function (output, target) -> scalar, got {type(loss).__name__}")
        self.net, self.buffer, self.loss = net, checked_buffer(buffer), loss
        self.alpha, self.beta = alpha, beta
        self.batch_size = batch_size
        self._batches = StepBatches()  # of a learner with their outputs, until their step was made
        self._before_draw: Tensor | None = None  # the generator's state, until the step was made

    @property
    def expects_classes(self) -> str | None:
        """For learners: what to pass if outputs are no logits; None if they need not be."""
        return "give DER loss=torch.nn.functional.mse_loss" if self.beta and self.loss is F.cross_entropy else None

    def penalty(self, x: Tensor, y: Tensor, output: Tensor) -> Tensor:
        """The penalty for drawn items, a differentiable scalar. Hook of learners, which add the batch in `after_step`.

        Args:
            x, y: the current batch.
            output: the network's output for it, (batch, outputs).

        Raises:
            ValueError, TypeError: as `ReplayBuffer.add`. Nothing is changed.
        """
        if not isinstance(output, Tensor) or output.ndim != 2:
            got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"output must be the network's output (batch, outputs), got {got}")
        stored = self.buffer.width("output")
        self.buffer.check(x, y, output=output[:, :stored])  # those that are new are left out
        count = len(x) if self.batch_size is None else self.batch_size
        total = output.new_zeros(())
        if not self._batches.kept:
            self._before_draw = self.buffer.generator.get_state()
        if len(self.buffer) and count:
            if self.alpha:
                total = total + self.alpha * self._distance(self.buffer.sample(count), x.device)
            if self.beta:
                drawn = self.buffer.sample(count)
                total = total + self.beta * self.loss(self.net(drawn.x.to(x.device)), drawn.y.to(y.device))
        self._batches.note(x, y, output.detach())
        return total

    def keep_batch(self) -> None:
        """Hook for gradient accumulation: another batch of the same step follows, and `after_step` adds all of them."""
        self._batches.keep()

    def after_step(self) -> None:
        """Hook of learners: add the batch and its outputs to the buffer."""
        for x, y, output in self._batches.take():
            stored = self.buffer.width("output")
            if stored is not None and stored < output.shape[1]:
                self.buffer.widen("output", output.shape[1])
            self.buffer.add(x, y, output=output)
        self._before_draw = None

    def discard(self) -> None:
        """Hook of learners: forget the batch of a step that failed, and undo its draws."""
        if self._before_draw is not None:
            self.buffer.generator.set_state(self._before_draw)
        self._before_draw = None
        self._batches.drop()

    def _distance(self, drawn: Samples, device: torch.device) -> Tensor:
        before = drawn.more["output"].to(device)
        now = self.net(drawn.x.to(device))[:, : before.shape[1]]
        difference = torch.where(before.isnan(), 0.0, now - before.nan_to_num())
        return difference.square().sum(1).mean()

    def __call__(self, x: Tensor, y: Tensor, output: Tensor) -> Tensor:
        """The penalty for drawn items, a differentiable scalar; afterwards adds the current batch to the buffer.

        Args, Raises:
            as `penalty`.
        """
        penalty = self.penalty(x, y, output)
        self.after_step()
        return penalty

    def state_dict(self) -> dict[str, Any]:
        """The buffer's state, which includes its items."""
        return self.buffer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`; errors as `ReplayBuffer.load_state_dict`."""
        self.buffer.load_state_dict(state_dict)

    def __repr__(self) -> str:
        return f"DER({self.buffer!r}, alpha={self.alpha:g}, beta={self.beta:g}, batch_size={self.batch_size})"
