"""ContinualBackprop: a plugin for Avalanche's strategies that attaches a `gnt.GnT` and follows growing heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from avalanche.core import SupervisedPlugin  # type: ignore[import-not-found,unused-ignore]
from avalanche.evaluation.metric_results import MetricValue  # type: ignore[import-not-found,unused-ignore]
from avalanche.models.utils import is_multi_task_module  # type: ignore[import-not-found,unused-ignore]
from torch import nn

from gnt._utils.other_names import explains_unknown_settings
from gnt._utils.random_states import random_states_kept
from gnt._utils.validation import check_flags
from gnt.initialization import Init
from gnt.integrations._engine_settings import check_follow, engine_settings, given_settings
from gnt.names import Accumulate, ActivationName, BiasInit, Utility
from gnt.replacement import EngineSettings, GnT, Protect, SoftReplacement
from gnt.units import checked_patterns, trace, unwrap

Patterns = str | Sequence[str] | None


class ContinualBackprop(SupervisedPlugin):  # type: ignore[misc,unused-ignore]
    """Continual backpropagation in Avalanche: ``Naive(..., plugins=[ContinualBackprop(replacement_rate=1e-3)])``.

    Before the first experience it finds the hidden units by a forward of two samples of it, and attaches a `gnt.GnT` to
    the strategy's optimizer. Before each further one it finds the units again and rebinds the engine (`GnT.rebind`),
    because an `IncrementalClassifier` has grown, or a `MultiHeadClassifier` has a new head: units keep their ages and
    utilities. An optimizer that has an engine (`gnt.optim.CBPAdam`) gets no other one: its engine is rebound. The
    engine is part of copies and checkpoints of the strategy.

    Args:
        layers: the layers or unit groups of the engine, or a function of the model that returns them, which is called
            before each experience. None: the model's forward is traced (`gnt.trace`), with the heads of all tasks that
            were trained.
        include, exclude: names of layers or patterns, as for `gnt.trace`: only units of layers that match ``include``
            and do not match ``exclude`` may be replaced.
        follow: as for `gnt.GnT`.
        log: publish "gnt/replaced" and "gnt/dead", the sums over all layers, as metric values after each experience.
        replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate, bias_transfer, generator,
        activation, process_group, kernels, bias_init, protect, grad_scaler, measure_every, soft: as for `gnt.GnT`.

    Attributes:
        engine: the engine; None before the first experience. ``engine.report()`` summarizes.

    Raises:
        TypeError, ValueError: settings that `gnt.GnT` refuses; before training, settings beside an optimizer that has
            an engine, and units that cannot be found.

    >>> from gnt.integrations.avalanche import ContinualBackprop
    >>> plugin = ContinualBackprop(replacement_rate=1e-3, maturity_threshold=100)
    >>> plugin.engine is None
    True
    """

    @explains_unknown_settings
    def __init__(
        self,
        *,
        layers: Any = None,
        include: Patterns = None,
        exclude: Patterns = None,
        follow: Sequence[Any] = (),
        log: bool = True,
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
        super().__init__()
        check_flags(log=log)
        check_follow(follow)
        settings = engine_settings(locals())
        if layers is not None and (include is not None or exclude is not None):
            raise TypeError("include and exclude would be ignored: layers already selects the units")
        self._layers, self._follow, self._log, self._settings = layers, tuple(follow), log, given_settings(settings)
        patterns = {"include": include, "exclude": exclude}
        self._patterns: dict[str, Any] = {name: checked_patterns(name, given) for name, given in patterns.items()}
        self.engine: GnT | None = None

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Check that the settings are used."""
        if hasattr(strategy.optimizer, "gnt") and (self._settings or self._follow):
            raise ValueError(
                f"{type(strategy.optimizer).__name__} has an engine of its own: settings of ContinualBackprop would be "
                "ignored"
            )

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Attach the engine, or rebind it; model and optimizer have been adapted to the experience."""
        optimizer = strategy.optimizer
        own: GnT | None = getattr(optimizer, "gnt", None)
        if own is not None:
            self.engine = own
        elif self.engine is not None and self.engine.optimizer is not optimizer:
            self.engine.close()
            self.engine = None
        units = self._units(strategy)
        if self.engine is None:
            self.engine = GnT(units, optimizer, follow=self._follow, **self._settings).attach()
        else:
            self.engine.rebind(units)

    def _units(self, strategy: Any) -> Any:
        model = unwrap(strategy.model)
        if callable(self._layers) and not isinstance(self._layers, nn.Module):
            return self._layers(model)
        if self._layers is not None:
            return self._layers
        data = strategy.experience.dataset
        with random_states_kept():
            x = torch.stack([torch.as_tensor(data[i][0], device="cpu") for i in range(min(2, len(data)))]).to(
                strategy.device
            )
        heads = (None,) if is_multi_task_module(model) else ()  # no task label: the outputs of all heads
        return trace(model, x, *heads, **self._patterns)

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Publish the number of replaced and of dead units."""
        if not self._log or self.engine is None:
            return
        figures = self.engine.figures()
        for figure in ("replaced", "dead"):
            value = sum(own for name, own in figures.items() if name.endswith(f"/{figure}"))
            metric = MetricValue(self, f"gnt/{figure}", value, strategy.clock.train_iterations)
            strategy.evaluator.publish_metric_value(metric)
