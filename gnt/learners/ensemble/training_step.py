"""The training step of an ensemble: all members as one network, each with its own loss."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt.learners._evaluated import Evaluated
from gnt.learners._loss_and_optimizer import Loss
from gnt.learners._methods import Methods
from gnt.learners._training_step import NoiseLayout, TrainingStep, after_optimizer_step_message, features_of_step
from gnt.learners.ensemble.engine import EnsembleGnT, format_seeds
from gnt.learners.ensemble.layers import MemberDropout
from gnt.learners.ensemble.losses import losses_and_start, member_losses
from gnt.learners.ensemble.stacked_net import StackedNet
from gnt.learners.ensemble.validation import refuse_methods
from gnt.replacement import AttachableEngine


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
        self._dropouts = [module for module in network.layers if isinstance(module, MemberDropout)]

    def set_methods(self, methods: Methods) -> None:
        """As `TrainingStep.set_methods`.

        Raises:
            TypeError: a method that does not work with members first. Nothing is changed.
        """
        refuse_methods(methods)
        super().set_methods(methods)

    def _evaluate(self, x: Tensor, y: Tensor) -> Evaluated:
        """Outputs, losses and features, all checked."""
        output, features = self.network.predict(x)
        losses, start = losses_and_start(self.loss, output, y)
        # the sum is one number to read; if it overflows although all losses are finite, each is checked
        if losses.device.type == "cpu" and not math.isfinite(losses.sum()) and not losses.isfinite().all():
            raise FloatingPointError(self.nonfinite_loss_message(losses))
        return Evaluated(output, losses, start, self.take_features(features))

    def clear_gradients(self) -> None:
        """Clear the gradients of the step before."""
        for parameter in self._parameters:
            parameter.grad = None

    def compute_loss(self, output: Tensor, y: Tensor) -> Tensor:
        """One loss for each member, (members,)."""
        return member_losses(self.loss, output, y)

    def nonfinite_loss_message(self, loss: Tensor) -> str:
        """The error message for losses that are not finite; it names the members' seeds."""
        seeds = format_seeds(self._seeds, ~loss.isfinite())
        return f"the loss of {seeds} is not finite; nothing was changed. Look at x, y and the step size"

    def take_features(self, features: Sequence[Tensor] | None) -> Any:
        """The features of all groups."""
        return None if self.engine is None else features_of_step(self.engine, features, captured=self.captured)

    def after_optimizer_step(self, batches: Any) -> list[Tensor]:
        """The engine's step."""
        try:
            return self.engine.step_with(batches) if self.engine is not None else []
        except FloatingPointError as error:
            raise FloatingPointError(after_optimizer_step_message(error)) from None

    def other_engines(self) -> list[AttachableEngine]:
        """None: an ensemble's optimizer is built for it, and its layers have no engines."""
        return []

    def noise_layouts(self) -> list[NoiseLayout]:
        """Of each dropout that is active."""
        return [each.noise_layout for each in self._dropouts if each.active and each.noise_layout is not None]

    def draw_noise(self, layouts: Sequence[NoiseLayout]) -> list[Tensor]:
        """The noise of each dropout that is active."""
        active = [each for each in self._dropouts if each.active] if layouts else []
        return [each.draw(layout) for each, layout in zip(active, layouts, strict=True)]

    def noise_generators(self) -> list[torch.Generator]:
        """Those of the members' dropout."""
        return self.network.dropout

    @contextlib.contextmanager
    def noise_given(self, noise: Sequence[Tensor]) -> Iterator[None]:
        """The dropouts multiply by the given noise."""
        active = [each for each in self._dropouts if each.active] if noise else []
        for each, own in zip(active, noise, strict=True):
            each.given_noise = own
        try:
            yield
        finally:
            for each in active:
                each.given_noise = None
