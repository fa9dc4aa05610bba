"""One training step on a batch: forward, loss, backward, optimizer step and, with an engine, generate and test.

The learners hold a `TrainingStep` and call its `run`. `gnt.learners._compile` calls the same methods one by one to
capture the whole step as a graph.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt.importance import ENGINE_UNCHANGED, FeatureBatch
from gnt.learners._evaluated import BackwardStart, Differentiated, Evaluated, check_loss
from gnt.learners._loss_and_optimizer import Loss, check_mse_shapes
from gnt.learners._methods import Methods
from gnt.learners._step_backup import StepBackup
from gnt.learners._step_result import Step
from gnt.optim import LearnerStep
from gnt.replacement import AttachableEngine, CBPLayer, GnT, attached_engines, unwrap_optimizer

NoiseLayout = tuple[torch.Size, torch.dtype, torch.device]

_NOT_COPIED = ("_backup", "_searched", "_layers", "_own_step")

# in the message of an error that the engine raises after the optimizer's step
OPTIMIZER_HAS_STEPPED = (
    "the optimizer has stepped, so weights, running statistics and optimizer state are new; ages and utilities are "
    "unchanged. Load an earlier state, and look at the step size"
)


class TrainingStep:
    """Forward, loss, backward and optimizer step on one batch.

    Attributes:
        network: the network.
        loss: the loss function.
        optimizer: the optimizer.
        engine: the engine whose units are updated after the optimizer's step, or None.
        methods: what else acts in the step.
        captured: True while the step is captured as a graph, with traced tensors in place of the network's.
    """

    engine: GnT | None = None
    methods = Methods()
    captured = False
    _backup: StepBackup | None = None
    _searched: list[nn.Module] | None = None  # the modules among which `_layers` were found
    _layers: Sequence[CBPLayer] = ()
    _own_step: LearnerStep | None = None

    def __init__(self, network: nn.Module, loss: Loss, optimizer: Optimizer) -> None:
        self.network, self.loss, self.optimizer = network, loss, optimizer

    def run(self, x: Tensor, y: Tensor) -> Step:
        """One step, operation by operation.

        An error before the optimizer's step changes nothing. One in the optimizer's step leaves buffers and random
        generators as they were, and parameters and optimizer state as the optimizer left them.
        """
        return self.run_with(self._differentiate, x, y)

    def run_with(self, differentiate: Callable[[Tensor, Tensor], Differentiated], x: Tensor, y: Tensor) -> Step:
        """As `run`, with the loss and its gradients from ``differentiate``, which leaves these in ``.grad``."""
        backup = self._current_backup()
        backup.save()
        try:
            output, losses, batches = differentiate(x, y)
            if len(x) == 0:
                self.undo(backup)
                return Step(losses, output, self.no_units())
            batches = self.after_backward(batches)
            if self.methods:
                self.methods.after_backward()
            engines = self.other_engines()
            others = [(engine, engine.updates) for engine in engines] if engines else []
            self._step_optimizer()
        except BaseException:
            self.undo(backup)
            raise
        backup.accept()
        units = self.after_optimizer_step(batches)
        for engine, updates in others:
            units = units + (engine.replaced if engine.updates > updates else engine.no_units())
        return Step(losses, output, units)

    def _differentiate(self, x: Tensor, y: Tensor) -> Differentiated:
        """Forward, loss and backward; a batch without samples has no backward."""
        output, losses, start, batches = self._evaluate(x, y)
        if len(x):
            penalty = self.methods.penalty(x, y, output) if self.methods else None
            self.clear_gradients()
            start.backward(penalty)
        return Differentiated(output.detach(), losses, batches)

    def _step_optimizer(self) -> None:
        """The optimizer's step, which writes what the engine reads after it."""
        if self.engine is None:
            self.optimizer.step()
        else:
            self._own_step = self._own_step or LearnerStep()
            self._own_step.step(self.optimizer, self.engine.weight_means)

    def set_methods(self, methods: Methods) -> None:
        """Use other methods; those that can follow the engine do, and the earlier ones no longer."""
        if self.engine is not None:
            for each in self.methods:
                if self.engine.is_followed_by(each):
                    self.engine.unfollow(each)
            methods.follow(self.engine)
        self.methods = methods

    def learn(self, x: Tensor, y: Tensor, run: Callable[[Tensor, Tensor], Step]) -> Step:
        """One step by ``run``, between the hooks of methods before the forward and after the step."""
        x, y = self.methods.before_batch(x, y)
        step = run(x, y)
        return step._replace(replaced=[*step.replaced, *self.methods.after_step()]) if len(x) else step

    def _evaluate(self, x: Tensor, y: Tensor) -> Evaluated:
        """Output, loss and features, all checked."""
        output, features = self.forward(x)
        if len(x) == 0:
            return Evaluated(output, output.new_zeros(()), BackwardStart(output), None)
        loss = self.compute_loss(output, y)
        if loss.is_cpu and not math.isfinite(loss.item()):
            raise FloatingPointError(self.nonfinite_loss_message(loss))
        return Evaluated(output, loss.detach(), BackwardStart(loss), self.take_features(features))

    def clear_gradients(self) -> None:
        """Clear the gradients of the step before."""
        optimizer = self.optimizer
        if type(optimizer).zero_grad is not Optimizer.zero_grad or "zero_grad" in vars(optimizer):
            optimizer.zero_grad()
            return
        for group in optimizer.param_groups:  # as Optimizer.zero_grad, without its wrappers
            for param in group["params"]:
                param.grad = None

    def _current_backup(self) -> StepBackup:
        """What `run` keeps of network and loss."""
        roots = [self.network, self.loss] if isinstance(self.loss, nn.Module) else [self.network]
        if self._backup is None or not self._backup.is_of(roots):
            self._backup = StepBackup(roots)
        return self._backup

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_COPIED}

    def other_engines(self) -> list[AttachableEngine]:
        """The engines that the optimizer's step runs: those attached to it, and those of CBP layers in the network."""
        modules, optimizer = self._current_backup().modules, self.optimizer
        if modules is not self._searched:
            self._searched = modules
            self._layers = [module for module in modules if isinstance(module, CBPLayer)]
        if not self._layers and getattr(optimizer, "_optimizer_step_post_hooks", True) == {}:
            return []
        return [*attached_engines(unwrap_optimizer(optimizer)), *(layer.engine for layer in self._layers)]

    def forward(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor] | None]:
        """The network's output, and its features if it has a method ``predict`` that returns them."""
        if _has_predict(self.network):
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
        if self.loss is F.mse_loss and output.shape != y.shape:  # tested here, too, to save the call in usual steps
            check_mse_shapes(self.loss, output, y)
        loss = self.loss(output, y)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss must return a scalar tensor, got {got}")
        check_loss(loss, output)
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
        return [units for engine in self.other_engines() for units in engine.no_units()]

    def noise_layouts(self) -> list[NoiseLayout]:
        """What the latest forward drew from generators of the network's own, for `draw_noise`."""
        return []

    def draw_noise(self, layouts: Sequence[NoiseLayout]) -> list[Tensor]:
        """Draw what a forward would draw from generators of the network's own, in the same order."""
        return []

    def noise_generators(self) -> list[torch.Generator]:
        """The generators of `draw_noise`."""
        return []

    def noise_given(self, noise: Sequence[Tensor]) -> contextlib.AbstractContextManager[None]:
        """Inside this context forwards use the result of `draw_noise` and draw nothing."""
        return contextlib.nullcontext()

    def undo(self, backup: StepBackup) -> None:
        """Undo a forward that no update follows: drop its features, restore buffers and random generators."""
        self.discard()
        backup.restore()

    def discard(self) -> None:
        """Drop what engines and methods have recorded for a step that failed."""
        self.discard_features()
        self.methods.discard()

    def discard_features(self) -> None:
        """Drop the features recorded in forwards that no update follows."""
        for engine in self.other_engines():
            engine.discard()


def _has_predict(network: nn.Module) -> bool:
    """``hasattr(network, "predict")``, without the error that a module formats for each missing attribute."""
    if type(network).__getattr__ is not nn.Module.__getattr__:
        return hasattr(network, "predict")
    return hasattr(type(network), "predict") or "predict" in network.__dict__ or "predict" in network._modules


def features_of_step(engine: GnT, features: Sequence[Tensor] | None, *, captured: bool) -> FeatureBatch:
    """The checked features; in a step that is captured the network's tensors are not those of the engine's checks."""
    return engine.feature_buffer.take(features) if captured else engine.take_features(features)


def after_optimizer_step_message(error: FloatingPointError) -> str:
    """The message of an engine's error in a step in which the optimizer has stepped before."""
    return f"{str(error).replace(f'; {ENGINE_UNCHANGED}', '')}; {OPTIMIZER_HAS_STEPPED}"


class EngineTrainingStep(TrainingStep):
    """A training step after which the engine updates its units and replaces those that are due."""

    engine: GnT

    def __init__(self, network: nn.Module, loss: Loss, optimizer: Optimizer, engine: GnT) -> None:
        super().__init__(network, loss, optimizer)
        self.engine = engine

    def take_features(self, features: Sequence[Tensor] | None) -> FeatureBatch | None:
        """The given features; None if they are recorded: which of them count is known after the backward pass."""
        if features is None:
            self.engine.check_features()
            return None
        return features_of_step(self.engine, features, captured=self.captured)

    def after_backward(self, batches: FeatureBatch | None) -> FeatureBatch:
        """The features of all groups that take part in the step."""
        if batches is not None:
            return batches
        if self.captured:
            return self.engine.feature_buffer.take()
        # the network was compared with what the engine was built for before the backward
        return self.engine.take(none_is_error=not self.engine.has_other_processes)

    def after_optimizer_step(self, batches: FeatureBatch) -> list[Tensor]:
        """The engine's step."""
        try:
            return self.engine.step_with(batches)
        except FloatingPointError as error:
            raise FloatingPointError(after_optimizer_step_message(error)) from None

    def no_units(self) -> list[Tensor]:
        """Empty indices for each group."""
        return self.engine.no_units() + super().no_units()

    def discard_features(self) -> None:
        """Also drop what this engine has recorded."""
        super().discard_features()
        self.engine.discard()
