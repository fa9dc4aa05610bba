"""ContinualBackprop: a network, a loss, an optimizer and the engine behind one method ``learn(x, y)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from typing_extensions import Unpack

from gnt._utils.known_attributes import known_attributes
from gnt.initialization import Init
from gnt.learners._engine_keywords import CONTINUAL_BACKPROP_SETTINGS
from gnt.learners._loss_and_optimizer import UNIT_OPTIMIZERS, Loss, refuse_own_engine
from gnt.learners._optimizer_options import OptimizerOptions
from gnt.learners._training_step import EngineTrainingStep
from gnt.learners.backprop import IN_OPTIMIZER, Backprop, step_attribute
from gnt.names import Accumulate, ActivationName, BiasInit, LossName, OptimizerName, Utility
from gnt.replacement import ENGINE_SETTINGS, EngineSettings, GnT, Protect, SoftReplacement


def _checked_engine(engine: Any) -> Any:
    if not isinstance(engine, GnT):
        raise TypeError(f"gnt of a learner must be a gnt.GnT, got {engine!r:.80}")
    return engine


@known_attributes(elsewhere={**IN_OPTIMIZER, **{name: f"gnt.{name}" for name in ENGINE_SETTINGS}})
class ContinualBackprop(Backprop):
    """Continual backpropagation: backpropagation, then generate and test, one update for each call of `learn`.

    Args:
        net: a Sequential or a module with ``.layers`` (or any module, with ``layers`` given). If it has a method
            ``predict(x) -> (output, features)``, features are taken from it, otherwise they are recorded by hooks.
        loss: as for `Backprop`.
        opt: as for `Backprop`; "adam" and "adamw" are `AdamGnT`, whose step counts restart with each replaced unit.
        step_size: as for `Backprop`.
        compile: as for `Backprop`; the engine's update is part of the graph.
        methods: as for `Backprop`. Those that keep numbers per weight of the engine's units (`gnt.L2Init`) follow it.
        layers: the layers of the engine if they are not those of ``net``: a list of layers or unit groups.
        replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate, bias_transfer, generator,
        activation, process_group, bias_init, follow, protect, measure_every, soft: as for `GnT`. They may be changed
            later, as attributes of ``learner.gnt``.
        options: further options of an optimizer given by name, as for `Backprop`.

    Attributes:
        net: the network.
        loss: the loss function.
        opt: the optimizer.
        gnt: the engine.

    Raises:
        ValueError, TypeError, RuntimeError, FloatingPointError: as for `Backprop` and `GnT`. If weights or features are
            not finite after the optimizer's step, the FloatingPointError says that the optimizer has stepped: weights,
            running statistics and optimizer state are new, ages and utilities unchanged.

    Source: Dohare et al., Nature 632 (2024), Algorithm 1.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> learner = gnt.ContinualBackprop(net, opt="adam", step_size=1e-3, replacement_rate=1e-3)
    >>> for _ in range(10):
    ...     step = learner.learn(torch.randn(8, 4), torch.randn(8, 1))
    >>> [len(units) for units in step.replaced]
    [0]
    """

    gnt: GnT = step_attribute("engine", _checked_engine)

    _optimizers = UNIT_OPTIMIZERS
    _engine_settings = CONTINUAL_BACKPROP_SETTINGS

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: LossName | Loss = "mse",
        opt: OptimizerName | Optimizer = "sgd",
        step_size: float | None = None,
        compile: bool = False,
        layers: Any = None,
        methods: Sequence[Any] = (),
        replacement_rate: float = EngineSettings.replacement_rate,
        maturity_threshold: int = EngineSettings.maturity_threshold,
        decay_rate: float = EngineSettings.decay_rate,
        utility: Utility = EngineSettings.utility,
        init: Init = EngineSettings.init,
        accumulate: Accumulate = EngineSettings.accumulate,
        bias_transfer: bool = EngineSettings.bias_transfer,
        generator: torch.Generator | None = None,
        activation: ActivationName | None = None,
        process_group: Any = None,
        bias_init: BiasInit = EngineSettings.bias_init,
        follow: Sequence[Any] = (),
        protect: Protect = None,
        measure_every: int = EngineSettings.measure_every,
        soft: SoftReplacement | bool | None = EngineSettings.soft,
        **options: Unpack[OptimizerOptions],
    ) -> None:
        refuse_own_engine(opt)
        super().__init__(net, loss=loss, opt=opt, step_size=step_size, compile=compile, methods=methods, **options)
        record = not hasattr(net, "predict")
        engine = GnT(
            net if layers is None else layers,
            self.opt,
            replacement_rate=replacement_rate,
            maturity_threshold=maturity_threshold,
            decay_rate=decay_rate,
            utility=utility,
            init=init,
            accumulate=accumulate,
            bias_transfer=bias_transfer,
            generator=generator,
            activation=activation,
            record=record,
            process_group=process_group,
            bias_init=bias_init,
            follow=follow,
            protect=protect,
            measure_every=measure_every,
            soft=soft,
        )
        own, self._step = self._step.methods, EngineTrainingStep(net, self.loss, self.opt, engine)
        self._step.set_methods(own)

    def state_dict(self) -> dict[str, Any]:
        """State of network, optimizer and engine, loadable with ``torch.load(weights_only=True)``."""
        return {**super().state_dict(), "gnt": self.gnt.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, to continue bit for bit; the learner must have been built with the same settings.

        Raises:
            ValueError: as for `Backprop` and `GnT`, or a state without an engine's. Nothing is changed.
        """
        if not isinstance(state_dict, dict) or "gnt" not in state_dict:
            raise ValueError("state_dict must hold 'gnt', the engine's state: was it saved by Backprop?")
        engine = self.gnt.checked_state(state_dict["gnt"])
        super().load_state_dict(state_dict)
        self.gnt.load_checked_state(engine)
