"""What the callbacks read of a trainer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch.callbacks as lightning_callbacks
from lightning.fabric.plugins import Precision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader


def optimizer_of(trainer: Any, number: int, callback: str) -> Optimizer:
    """The optimizer with this number.

    Raises:
        ValueError: there is none.
    """
    optimizers: list[Optimizer] = trainer.optimizers
    if not 0 <= number < len(optimizers):
        raise ValueError(
            f"optimizer of {callback} must be the number of one of the {len(optimizers)} optimizers that "
            f"configure_optimizers returns, got {number}"
        )
    return optimizers[number]


_AVERAGING: tuple[Any, ...] = tuple(
    getattr(lightning_callbacks, name)
    for name in ("WeightAveraging", "StochasticWeightAveraging")
    if hasattr(lightning_callbacks, name)  # the first since 2.6
)


def weight_averaging(trainer: Any, after: Any = None) -> list[Any]:
    """The trainer's callbacks that average weights, such as ``EMAWeightAveraging``, and write them back at the end.

    Args:
        trainer: the trainer.
        after: only those that are listed after this callback.
    """
    callbacks = trainer.callbacks
    start = 0 if after is None else next((n for n, each in enumerate(callbacks) if each is after), len(callbacks))
    return [callback for callback in callbacks[start:] if isinstance(callback, _AVERAGING)]


def averaged_models(trainer: Any) -> list[AveragedModel]:
    """The averaged copies of the module in this fit."""
    found = (getattr(callback, "_average_model", None) for callback in weight_averaging(trainer))
    return [model for model in found if isinstance(model, AveragedModel)]


def check_network_function(net: Any) -> None:
    """Raise TypeError for a ``net`` that is neither None nor a function of the LightningModule."""
    if net is not None and (not callable(net) or isinstance(net, nn.Module)):
        raise TypeError(f"net must be a function of the LightningModule, or None, got {type(net).__name__}")


def key_of_callback(key: str, number: int) -> str:
    """The key of a callback's state in a checkpoint: Lightning refuses callbacks with the same one."""
    return f"{key}{{'optimizer': {number}}}" if number else key


def in_precision(trainer: Any, data: Any) -> Any:
    """Data in the precision in which the trainer gives batches to the module (``precision="bf16-true"``).

    Applies to loaders and to tensors; anything else is returned as it is.
    """
    convert = trainer.precision_plugin.convert_input
    if convert.__func__ is Precision.convert_input:  # it changes nothing
        return data
    if isinstance(data, DataLoader):
        converted = copy.copy(data)
        converted._iterator = None  # workers of its own, if they are persistent
        converted.collate_fn = _Converted(data.collate_fn, convert)
        return converted
    if isinstance(data, (tuple, list)) and all(isinstance(each, Tensor) for each in data):
        return convert(data)
    return data


class _Converted:
    """The batches of another function for collation, converted.

    Args:
        collate: the other function.
        convert: batch -> batch.
    """

    def __init__(self, collate: Callable[[Any], Any], convert: Callable[[Any], Any]) -> None:
        self._collate, self._convert = collate, convert

    def __call__(self, samples: Any) -> Any:
        return self._convert(self._collate(samples))


def unscales_in_step(trainer: Any, optimizer: Optimizer) -> bool:
    """True if gradients are multiplied by the factor of a GradScaler until the step, as for fused optimizers."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def steps_per_epoch(trainer: Any) -> int | None:
    """Number of optimizer steps in an epoch; None: it is not known."""
    _ = trainer.estimated_stepping_batches  # sets up the loaders
    batches = trainer.num_training_batches
    return None if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
