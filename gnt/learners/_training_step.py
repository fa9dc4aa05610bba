"""One training step on a batch: forward, loss, backward, optimizer step and, with an engine, generate and test.

The learners hold a `TrainingStep` and call its `run`. `gnt.learners._compile` calls the same methods one by one to
capture the whole step as a graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt.importance import FeatureBatch
from gnt.learners._loss_and_optimizer import Loss
from gnt.replacement import CBPLayer, GnT

BufferCopies = list[tuple[Tensor, Tensor]]  # a buffer and a copy of it


class Step(NamedTuple):
    """Result of one call of `learn`.

    Attributes:
        loss: the loss before the update, 0-d and detached.
        output: the network's output before the update, detached.
        replaced: indices of the units replaced after the update, one int64 tensor for each unit group.
    """

    loss: Tensor
    output: Tensor
    replaced: list[Tensor]


class TrainingStep:
    """Forward, loss, backward and optimizer step on one batch.

    Attributes:
        network: the network.
        loss: the loss function.
        optimizer: the optimizer.
        engine: the engine whose units are updated after the optimizer's step, or None.
    """

    engine: GnT | None = None

    def __init__(self, network: nn.Module, loss: Loss, optimizer: Optimizer) -> None:
        self.network, self.loss, self.optimizer = network, loss, optimizer

    def run(self, x: Tensor, y: Tensor) -> Step:
        """One step, operation by operation. If the batch is refused, nothing is changed."""
        held = (module._buffers for module in self.network.modules() if module._buffers)  # faster than .buffers()
        buffers = [(buffer, buffer.clone()) for named in held for buffer in named.values() if buffer is not None]
        try:
            output, loss, batches = self._evaluate(x, y)
        except Exception:
            self.undo(buffers)
            raise
        if len(x) == 0:
            self.undo(buffers)
            return Step(output.new_zeros(()), output.detach(), self.no_units())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        try:
            batches = self.after_backward(batches)
        except Exception:
            self.undo(buffers)
            raise
        self.optimizer.step()
        return Step(loss.detach(), output.detach(), self.after_optimizer_step(batches))

    def _evaluate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Output, loss and features, all checked."""
        output, features = self.forward(x)
        if len(x) == 0:
            return output, output, None
        loss = self.compute_loss(output, y)
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            raise FloatingPointError(self.nonfinite_loss_message(loss))
        return output, loss, self.take_features(features)

    def forward(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor] | None]:
        """The network's output, and its features if it has a method ``predict`` that returns them."""
        if hasattr(self.network, "predict"):
            result = self.network.predict(x)  # type: ignore[operator]
            if not isinstance(result, tuple) or len(result) != 2:
                raise TypeError(
                    f"predict of {type(self.network).__name__} must return (output, features), got "
                    f"{type(result).__name__}"
                )
            return result
        return self.network(x), None

    def compute_loss(self, output: Tensor, y: Tensor) -> Tensor:
        """The loss, checked for everything but its value."""
        if self.loss is F.mse_loss and output.shape != y.shape:
            raise ValueError(
                f"mse compares output and target element by element: output {tuple(output.shape)}, y {tuple(y.shape)}"
            )
        loss = self.loss(output, y)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss must return a scalar tensor, got {got}")
        if not loss.requires_grad:
            raise ValueError("loss must depend on the output: it has no grad_fn, so there is nothing to learn from")
        return loss

    def nonfinite_loss_message(self, loss: Tensor) -> str:
        """The error message for a loss that is not finite."""
        return f"the loss is {loss.item()}; nothing was changed. Look at x, y and the step size"

    def take_features(self, features: Sequence[Tensor] | None) -> Any:
        """Check the features of this forward, before anything is changed; what is returned goes to `after_backward`."""

    def after_backward(self, batches: Any) -> Any:
        """Called between backward and optimizer step; what is returned goes to `after_optimizer_step`."""
        return batches

    def after_optimizer_step(self, batches: Any) -> list[Tensor]:
        """Called after the optimizer's step: the indices of the replaced units, for each group."""
        return []

    def no_units(self) -> list[Tensor]:
        """Empty indices for each group: the result of a step that replaces nothing."""
        return []

    def undo(self, buffers: BufferCopies) -> None:
        """Undo a forward that no update follows: drop its features and restore the network's buffers."""
        self.discard()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)

    def discard(self) -> None:
        """Drop the features recorded in forwards that no update follows."""
        for module in self.network.modules():
            if isinstance(module, CBPLayer):
                module.discard()
        engine = getattr(self.optimizer, "gnt", None)
        if isinstance(engine, GnT):
            engine.discard()


class EngineTrainingStep(TrainingStep):
    """A training step after which the engine updates its units and replaces those that are due."""

    engine: GnT

    def __init__(self, network: nn.Module, loss: Loss, optimizer: Optimizer, engine: GnT) -> None:
        super().__init__(network, loss, optimizer)
        self.engine = engine

    def take_features(self, features: Sequence[Tensor] | None) -> FeatureBatch | None:
        """The features of all groups; None if some of them are recorded only during the backward pass."""
        if features is None and not self.engine.feature_buffer.complete:
            return None  # inside torch.utils.checkpoint with use_reentrant=True
        return self.engine.take_features(features)

    def after_backward(self, batches: FeatureBatch | None) -> FeatureBatch:
        """The features of all groups, now complete."""
        if batches is None:
            return self.engine.take_features()
        # a non-reentrant checkpoint has run the forward a second time, and recorded it again
        self.engine.feature_buffer.clear()
        return batches

    def after_optimizer_step(self, batches: FeatureBatch) -> list[Tensor]:
        """The engine's step."""
        return self.engine.step_with(batches)

    def no_units(self) -> list[Tensor]:
        """Empty indices for each group."""
        return [group.state.no_units for group in self.engine.groups]

    def discard(self) -> None:
        """Also drop what this engine has recorded."""
        super().discard()
        self.engine.discard()
