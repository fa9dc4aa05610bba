"""What callback and mixin for the Trainer of transformers have in common: an engine attached to its optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import Trainer

from gnt._utils.random_states import random_states_kept
from gnt._utils.validation import check_flags, check_known_settings
from gnt.integrations._engine_settings import check_follow
from gnt.optim import AdamGnT
from gnt.replacement import ENGINE_SETTINGS, EngineSettings, GnT
from gnt.units import checked_patterns, trace, unwrap

Patterns = str | Sequence[str] | None
OWN = ("layers", "example_inputs", "include", "exclude", "follow", "adam_gnt", "log", "log_layers")


class EngineMaker:
    """Creates a trainer's optimizer with an engine attached, and the figures to be logged.

    Arguments are those of `ContinualBackprop`.

    Raises:
        TypeError, ValueError: settings that are not allowed.
    """

    def __init__(
        self,
        receiver: str,
        *,
        layers: Any = None,
        example_inputs: Mapping[str, Any] | None = None,
        include: Patterns = None,
        exclude: Patterns = None,
        follow: Sequence[Any] = (),
        adam_gnt: bool = True,
        log: bool = True,
        log_layers: bool = False,
        **settings: Any,
    ) -> None:
        check_known_settings(settings, receiver, OWN, ENGINE_SETTINGS)
        check_flags(adam_gnt=adam_gnt, log=log, log_layers=log_layers)
        EngineSettings(**settings)
        check_follow(follow)
        if example_inputs is not None and not isinstance(example_inputs, Mapping):
            raise TypeError(
                f"example_inputs of {receiver} must be a dict of the model's arguments, got "
                f"{type(example_inputs).__name__}"
            )
        unused = {"example_inputs": example_inputs, "include": include, "exclude": exclude}
        if layers is not None and (given := [name for name, value in unused.items() if value is not None]):
            raise TypeError(f"{', '.join(given)} would be ignored: layers already selects the units")
        self._receiver, self._layers, self._inputs, self._follow = receiver, layers, example_inputs, follow
        patterns = {"include": include, "exclude": exclude}
        self._patterns: dict[str, Any] = {name: checked_patterns(name, given) for name, given in patterns.items()}
        self._adam_gnt, self.log, self._log_layers, self._settings = adam_gnt, log, log_layers, settings
        self.engine: GnT | None = None

    def create_optimizer(self, trainer: Trainer, create: Callable[[], Optimizer]) -> Optimizer:
        """Return what ``create`` returns, the trainer's optimizer, with an engine attached.

        Raises:
            ValueError: the optimizer has an engine and settings are given; FSDP or DeepSpeed; units that are not found.
        """
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError(
                f"{self._receiver} does not work with FSDP and DeepSpeed, for which Trainer makes another optimizer"
            )
        is_new = trainer.optimizer is None
        units = self._units(trainer) if is_new and trainer.optimizer_cls_and_kwargs is None else None
        optimizer = create() if units is None else self._created(trainer, create)
        plain = without_wrapper(optimizer)
        if self.engine is not None and self.engine.optimizer is plain:
            return optimizer
        own = getattr(plain, "gnt", None)
        if own is not None:
            if self._settings or self._layers is not None or self._follow:
                raise ValueError(
                    f"{type(plain).__name__} has an engine of its own: settings of {self._receiver} would be ignored"
                )
            self.engine = own
            return optimizer
        try:
            if units is None:
                units = self._units(trainer)
            self.engine = GnT(units, plain, follow=self._follow, **self._settings).attach()
        except Exception:
            if is_new:
                trainer.optimizer = None
            raise
        return optimizer

    def _created(self, trainer: Trainer, create: Callable[[], Optimizer]) -> Optimizer:
        """A new optimizer: that of the training arguments, or AdamGnT in place of torch's AdamW."""
        model: Any = trainer.model
        kind, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
        if not self._adam_gnt or kind is not torch.optim.AdamW:
            return create()
        options = {name: value for name, value in options.items() if name in ("lr", "betas", "eps")}
        trainer.optimizer_cls_and_kwargs = (AdamGnT, {**options, "decoupled_weight_decay": True})
        try:
            return create()
        finally:
            trainer.optimizer_cls_and_kwargs = None

    def _units(self, trainer: Trainer) -> Any:
        whole: Any = trainer.model
        model = unwrap(whole)
        if callable(self._layers) and not isinstance(self._layers, nn.Module):
            return self._layers(model)
        if self._layers is not None:
            return self._layers
        parameters = inspect.signature(model.forward).parameters
        inputs = self._inputs if self._inputs is not None else _sample(trainer, self._receiver, parameters)
        if "use_cache" in parameters:  # outputs with a cache cannot be traced
            inputs = {"use_cache": False, **inputs}
        return trace(model, examples=[trainer._prepare_inputs(dict(inputs))], **self._patterns)

    def figures(self) -> dict[str, float]:
        """The number of replaced and of dead units, and the figures of each layer if they are wanted."""
        if self.engine is None:
            return {}
        layers = self.engine.figures()
        names = [group.name for group in self.engine.groups]
        sums = {figure: sum(layers[f"{name}/{figure}"] for name in names) for figure in ("replaced", "dead")}
        return {f"gnt/{name}": value for name, value in {**sums, **(layers if self._log_layers else {})}.items()}


def without_wrapper(optimizer: Any) -> Optimizer:
    """The optimizer that Accelerate has wrapped, or the optimizer itself."""
    inner = getattr(optimizer, "optimizer", optimizer)
    plain: Optimizer = inner if isinstance(inner, Optimizer) else optimizer
    return plain


def _sample(trainer: Trainer, receiver: str, parameters: Mapping[str, inspect.Parameter]) -> Mapping[str, Any]:
    """Two collated samples of the training data, without labels that a forward does not require."""
    data: Any = trainer.train_dataset
    if data is None:
        raise ValueError(f"{receiver} finds the units by a forward: pass example_inputs, layers, or a train_dataset")
    collator = trainer._get_collator_with_removed_columns(trainer.data_collator, description="training")
    with random_states_kept():
        loader = DataLoader(data, 2, collate_fn=collator, generator=torch.Generator().manual_seed(0))
        batch = next(iter(loader), None)
    if batch is None:
        raise ValueError(
            f"{receiver} finds the units by a forward, and train_dataset has no samples: pass example_inputs or layers"
        )
    if getattr(getattr(trainer.model, "config", None), "is_encoder_decoder", False):  # decodes from the labels
        return dict(batch)
    required = {name for name, each in parameters.items() if each.default is each.empty}
    return {name: value for name, value in batch.items() if name not in trainer.label_names or name in required}
