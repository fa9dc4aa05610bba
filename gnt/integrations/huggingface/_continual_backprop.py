"""ContinualBackprop and ContinualBackpropMixin: continual backpropagation in the Trainer of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gnt._utils.other_names import explains_unknown_settings
from gnt.initialization import Init
from gnt.integrations._engine_settings import engine_settings, given_settings
from gnt.integrations.huggingface._engine_maker import EngineMaker, Patterns, without_wrapper
from gnt.integrations.huggingface._log_besides import log_besides
from gnt.names import Accumulate, ActivationName, BiasInit, Utility
from gnt.replacement import EngineSettings, GnT, Protect, SoftReplacement


class ContinualBackprop(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Continual backpropagation for any Trainer: ``trainer.add_callback(ContinualBackprop(trainer, ...))``.

    It lets the trainer create its optimizer now, finds the hidden units by a forward of two samples of the training
    data, and attaches a `gnt.GnT` to the optimizer. Units are replaced after each optimizer step. The engine's state is
    in the checkpoints' ``optimizer.pt``, and a run resumed from one continues bit for bit. When the trainer logs,
    "gnt/replaced" and "gnt/dead", the sums over all layers, are logged as well.

    An optimizer that has an engine (`gnt.optim.CBPAdamW`) gets no other one: it is logged. A trainer with
    ``model_init``, which makes a new model and optimizer for each run, needs `ContinualBackpropMixin`.

    Args:
        trainer: the trainer.
        layers: the layers or unit groups of the engine, or a function of the model that returns them. None: the model's
            forward is traced (`gnt.trace`).
        example_inputs: dict of arguments of a forward to trace. None: two samples of ``trainer.train_dataset``.
        include, exclude: names of layers or patterns, such as ``"*.mlp.*"``, as for `gnt.trace`: only units of layers
            that match ``include`` and do not match ``exclude`` may be replaced.
        follow: as for `gnt.GnT`.
        adam_gnt: use `gnt.AdamGnT` with the options of the training arguments where these ask for torch's AdamW, the
            default: it is AdamW with step counts that restart for replaced units. False: torch's. Other optimizers are
            kept.
        log: log the sums.
        log_layers: log the figures of each layer (`GnT.figures`), too, as "gnt/<layer>/<figure>".
        replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate, bias_transfer, generator,
        activation, process_group, kernels, bias_init, protect, grad_scaler, measure_every, soft: as for `gnt.GnT`.

    Attributes:
        engine: the engine; ``engine.report()`` summarizes.

    Raises:
        TypeError, ValueError: settings that `gnt.GnT` refuses; units that cannot be found; FSDP and DeepSpeed, for
            which Trainer makes another optimizer. When training begins: another optimizer than at construction.
    """

    @explains_unknown_settings
    def __init__(
        self,
        trainer: Trainer,
        *,
        layers: Any = None,
        example_inputs: Mapping[str, Any] | None = None,
        include: Patterns = None,
        exclude: Patterns = None,
        follow: Sequence[Any] = (),
        adam_gnt: bool = True,
        log: bool = True,
        log_layers: bool = False,
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
        kernels: bool | None = EngineSettings.kernels,
        bias_init: BiasInit = EngineSettings.bias_init,
        protect: Protect = None,
        grad_scaler: torch.amp.GradScaler | None = None,
        measure_every: int = EngineSettings.measure_every,
        soft: SoftReplacement | bool | None = EngineSettings.soft,
    ) -> None:
        settings = engine_settings(locals())
        self._maker = EngineMaker(
            "ContinualBackprop",
            layers=layers,
            example_inputs=example_inputs,
            include=include,
            exclude=exclude,
            follow=follow,
            adam_gnt=adam_gnt,
            log=log,
            log_layers=log_layers,
            **given_settings(settings),
        )
        if not isinstance(trainer, Trainer):
            raise TypeError(f"trainer must be a transformers.Trainer, got {type(trainer).__name__}")
        if trainer.model_init is not None:
            raise ValueError(
                "a trainer with model_init makes a new optimizer for each run: use ContinualBackpropMixin, "
                "class ContinualTrainer(ContinualBackpropMixin, Trainer)"
            )
        self._trainer: Any = trainer
        self._maker.create_optimizer(trainer, trainer.create_optimizer)

    @property
    def engine(self) -> GnT:
        """The engine."""
        engine = self._maker.engine
        assert engine is not None
        return engine

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that the optimizer is the one that has the engine."""
        if without_wrapper(self._trainer.optimizer) is not self.engine.optimizer:
            raise ValueError(
                "the trainer has another optimizer than when ContinualBackprop was made: make the callback again"
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the figures in the steps in which the trainer logs."""
        if control.should_log and self._maker.log:
            log_besides(self._trainer, control, self._maker.figures())

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the figures at the end of an epoch if the trainer logs then (``logging_strategy="epoch"``)."""
        self.on_step_end(args, state, control)


class ContinualBackpropMixin:
    """Continual backpropagation in a Trainer of one's own: ``class ContinualTrainer(ContinualBackpropMixin, Trainer)``.

    Its ``create_optimizer`` attaches an engine to each optimizer that the trainer creates, also for ``model_init`` and
    ``hyperparameter_search``. Figures are part of the trainer's log entries. Everything else is as for
    `ContinualBackprop`.

    Args:
        continual_backprop: dict of the arguments of `ContinualBackprop`, other than ``trainer``.
        args, kwargs: those of the trainer.

    Attributes:
        engine: the engine of the latest optimizer; None before the first.

    >>> from transformers import Trainer
    >>> from gnt.integrations.huggingface import ContinualBackpropMixin
    >>> class ContinualTrainer(ContinualBackpropMixin, Trainer):
    ...     pass
    """

    def __init__(self, *args: Any, continual_backprop: Mapping[str, Any], **kwargs: Any) -> None:
        if not isinstance(continual_backprop, Mapping):
            raise TypeError(f"continual_backprop must be a dict of settings, got {type(continual_backprop).__name__}")
        self._continual_backprop = EngineMaker("ContinualBackpropMixin", **continual_backprop)
        super().__init__(*args, **kwargs)

    @property
    def engine(self) -> GnT | None:
        """The engine of the latest optimizer; None before the first."""
        return self._continual_backprop.engine

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Optimizer:
        """The trainer's optimizer, with an engine attached."""
        create = super().create_optimizer  # type: ignore[misc]
        trainer: Any = self
        return self._continual_backprop.create_optimizer(trainer, lambda: create(*args, **kwargs))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the figures of the units beside the training loss."""
        if "loss" in logs and self._continual_backprop.log:
            logs = {**logs, **self._continual_backprop.figures()}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]
