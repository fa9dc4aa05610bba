"""The training step of an ensemble: all members as one network, each with its own loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gnt.learners._loss_and_optimizer import Loss
from gnt.learners._training_step import Step, TrainingStep
from gnt.learners.ensemble.engine import EnsembleGnT, format_seeds
from gnt.learners.ensemble.losses import BackwardStart, backward_start, member_losses
from gnt.learners.ensemble.stacked_net import StackedNet


class EnsembleTrainingStep(TrainingStep):
    """A training step of all members; ``engine`` is None if no units are replaced."""

    network: StackedNet
    engine: EnsembleGnT | None

    def __init__(
        self, network: StackedNet, loss: Loss, optimizer: Optimizer, engine: EnsembleGnT | None, seeds: Sequence[int]
    ) -> None:
        super().__init__(network, loss, optimizer)
        self.engine = engine
        self._seeds = seeds
        self._parameters = list(network.parameters())
        self._buffer_slots = [(module._buffers, key) for module in network.modules() for key in module._buffers]

    def run(self, x: Tensor, y: Tensor) -> Step:
        """One step, operation by operation. If the batches are refused, nothing is changed."""
        buffers = [(buffer, buffer.clone()) for held, key in self._buffer_slots if (buffer := held[key]) is not None]
        try:
            output, start, batches = self._evaluate_members(x, y)
        except Exception:
            self.undo(buffers)
            raise
        for parameter in self._parameters:
            parameter.grad = None
        start.tensor.backward(start.gradient)  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return Step(start.losses, output.detach(), self.after_optimizer_step(batches))

    def _evaluate_members(self, x: Tensor, y: Tensor) -> tuple[Tensor, BackwardStart, Any]:
        """Outputs, losses and features, all checked."""
        output, features = self.network.predict(x)
        start = backward_start(self.loss, output, y)
        losses = start.losses
        # the sum is one number to read; if it overflows although all losses are finite, each is checked
        if losses.device.type == "cpu" and not math.isfinite(losses.sum()) and not losses.isfinite().all():
            raise FloatingPointError(self.nonfinite_loss_message(losses))
        return output, start, self.take_features(features)

    def compute_loss(self, output: Tensor, y: Tensor) -> Tensor:
        """One loss for each member, (members,)."""
        return member_losses(self.loss, output, y)

    def nonfinite_loss_message(self, loss: Tensor) -> str:
        """The error message for losses that are not finite; it names the members' seeds."""
        seeds = format_seeds(self._seeds, ~loss.isfinite())
        return f"the loss of {seeds} is not finite; nothing was changed. Look at x, y and the step size"

    def take_features(self, features: Sequence[Tensor] | None) -> Any:
        """The features of all groups."""
        return self.engine.take_features(features) if self.engine is not None else None

    def after_optimizer_step(self, batches: Any) -> list[Tensor]:
        """The engine's step."""
        return self.engine.step_with(batches) if self.engine is not None else []

    def discard(self) -> None:
        """Nothing to drop: the features of a stacked network are returned by ``predict``, not recorded."""
