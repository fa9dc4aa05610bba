"""ContinualBackprop: a callback that attaches a `gnt.GnT` engine to the optimizer of a LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from gnt._utils.other_names import explains_unknown_settings
from gnt._utils.validation import check_counts, check_flags
from gnt.initialization import Init
from gnt.integrations._engine_settings import check_follow, engine_settings
from gnt.integrations._interval import Interval
from gnt.integrations.lightning._trainer import averaged_models, key_of_callback, optimizer_of
from gnt.names import Accumulate, ActivationName, BiasInit, Utility
from gnt.replacement import EngineSettings, GnT, Protect, SoftReplacement
from gnt.units import checked_patterns, trace, unwrap

Patterns = str | Sequence[str] | None


class ContinualBackprop(Callback):
    """Continual backpropagation for any LightningModule: ``Trainer(callbacks=[ContinualBackprop(...)])``.

    When a fit starts, it finds the hidden units and attaches a `gnt.GnT` to the module's optimizer; from then on units
    are replaced after each optimizer step, whatever the accumulation of gradients, precision, clipping and number of
    processes. The engine's state is part of the optimizer's in each checkpoint, and a resumed fit continues bit for
    bit. A further fit of the same module, for the next task, goes on with the ages and utilities of the one before; a
    fit of another module begins with new ones. With Lightning's ``WeightAveraging`` or ``EMAWeightAveraging``, the
    averaged weights of replaced units become those of the new units (`GnT.follow`).

    Args:
        layers: the layers or unit groups of the engine, or a function of the LightningModule that returns them. None:
            the module's forward is traced (`gnt.trace`).
        example_inputs: inputs of one forward to trace, a tensor or a tuple of positional arguments; None: the module's
            ``example_input_array``.
        include, exclude: names of layers, or patterns such as ``"backbone.*"``, as for `gnt.trace`: only units of
            layers that match ``include`` and do not match ``exclude`` may be replaced.
        optimizer: the number of the optimizer, if ``configure_optimizers`` returns several; a callback for each of
            them, with ``include`` or ``layers``. The hyperparameters of the second are logged as "gnt/optimizer_1/...".
        log: log `GnT.figures` every ``trainer.log_every_n_steps`` optimizer steps, as "gnt/<layer>/<figure>".
        follow: as for `GnT`.
        replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate, bias_transfer, generator,
        activation, process_group, kernels, bias_init, protect, grad_scaler, measure_every, soft: as for `GnT`. They are
            checked at once, logged as hyperparameters and saved in checkpoints; a checkpoint with other settings gives
            a warning.

    Attributes:
        engine: the engine of the latest fit; None before the first one. ``engine.report()`` summarizes.

    Raises:
        TypeError, ValueError: settings that `GnT` refuses; when a fit starts, units that cannot be found, or an
            optimizer that has an engine of its own (`gnt.optim.CBPAdamW`), which needs no callback.

    >>> import lightning, torch
    >>> from gnt.integrations.lightning import ContinualBackprop
    >>> cbp = ContinualBackprop(include="hidden*", replacement_rate=1e-3, maturity_threshold=100)
    >>> cbp.settings["replacement_rate"]
    0.001
    """

    @explains_unknown_settings
    def __init__(
        self,
        *,
        layers: Any = None,
        example_inputs: Any = None,
        include: Patterns = None,
        exclude: Patterns = None,
        optimizer: int = 0,
        log: bool = True,
        follow: Sequence[Any] = (),
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
        check_flags(log=log)
        check_counts(optimizer=optimizer)
        check_follow(follow)
        settings = engine_settings(locals())
        EngineSettings(**settings)
        unused = {"example_inputs": example_inputs, "include": include, "exclude": exclude}
        if layers is not None and (given := [name for name, value in unused.items() if value is not None]):
            raise TypeError(f"{', '.join(given)} would be ignored: layers already selects the units")
        self._layers, self._example_inputs = layers, example_inputs
        patterns = {"include": include, "exclude": exclude}
        self._patterns: dict[str, Any] = {name: checked_patterns(name, given) for name, given in patterns.items()}
        self._optimizer, self._log, self._follow, self._settings = optimizer, log, follow, settings
        self._interval = Interval()
        self._saved_settings: dict[str, Any] | None = None
        self.engine: GnT | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the engine as plain values, as `GnT.settings`."""
        return EngineSettings(**self._settings).plain()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the units, and attach an engine to the optimizer, which has not yet been loaded from a checkpoint."""
        optimizer, before = optimizer_of(trainer, self._optimizer, "ContinualBackprop"), self.engine
        if hasattr(optimizer, "gnt"):
            raise ValueError(
                f"{type(optimizer).__name__} has an engine of its own, which needs no callback ContinualBackprop"
            )
        units = self._units(pl_module)
        if before is not None:
            before.close()
        self.engine = GnT(units, optimizer, follow=self._follow, **self._settings).attach()
        if before is not None and _weights(before) == _weights(self.engine):
            self._continue(self.engine, before)
        for averaged in averaged_models(trainer):
            self.engine.follow(averaged, network=pl_module)
        if self._saved_settings is not None:
            self._compare(self._saved_settings)
            self._saved_settings = None
        prefix = f"gnt/optimizer_{self._optimizer}" if self._optimizer else "gnt"
        for logger in trainer.loggers:
            logger.log_hyperparams({f"{prefix}/{name}": value for name, value in self.settings.items()})

    def _units(self, module: LightningModule) -> Any:
        if callable(self._layers) and not isinstance(self._layers, nn.Module):
            find: Callable[[LightningModule], Any] = self._layers
            return self._without_wrappers(find(module))
        if self._layers is not None:
            return self._without_wrappers(self._layers)
        inputs = module.example_input_array if self._example_inputs is None else self._example_inputs
        if inputs is None:
            raise ValueError(
                "ContinualBackprop finds the units by a forward: pass example_inputs, set example_input_array of the "
                f"{type(module).__name__}, or pass layers"
            )
        inputs = move_data_to_device(inputs, module.device)
        if isinstance(inputs, dict):
            return trace(module, **self._patterns, **inputs)
        return trace(module, *(inputs if isinstance(inputs, (tuple, list)) else (inputs,)), **self._patterns)

    @staticmethod
    def _without_wrappers(layers: Any) -> Any:
        return unwrap(layers) if isinstance(layers, nn.Module) else layers

    @staticmethod
    def _continue(engine: GnT, before: GnT) -> None:
        """Go on with the units of the fit before."""
        try:
            engine.load_state_dict(before.state_dict())
        except ValueError as error:
            rank_zero_warn(f"the units of ContinualBackprop start with ages of 0, the network has changed: {error}")

    def _compare(self, saved: dict[str, Any]) -> None:
        now = self.settings
        changed = [
            f"{name}: {saved[name]!r} -> {now[name]!r}" for name in now if saved.get(name, now[name]) != now[name]
        ]
        if changed:
            rank_zero_warn(f"settings of ContinualBackprop differ from those of the checkpoint: {', '.join(changed)}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the first step, or from that of the checkpoint."""
        self._interval.begin(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log figures of the units."""
        step, every = trainer.global_step, getattr(trainer, "log_every_n_steps", 0)
        if not every or not self._interval.is_due(step, every):
            return
        if self._log and self.engine is not None and trainer.loggers:
            figures = {f"gnt/{name}": value for name, value in self.engine.figures().items()}
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=step)

    @property
    def state_key(self) -> str:
        """The key of the state in a checkpoint, another one for each optimizer."""
        return key_of_callback(super().state_key, self._optimizer)

    def state_dict(self) -> dict[str, Any]:
        """The settings; the engine's state is saved with the optimizer's."""
        return {"settings": self.settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the settings of a checkpoint, to be compared with those of this callback."""
        self._saved_settings = state_dict["settings"]


def _weights(engine: GnT) -> list[int]:
    """The identities of the weights into the engine's units."""
    return [id(slot.weight) for group in engine.groups for slot in group.incoming]
