"""What the callbacks read of a trainer."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import Optimizer


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


def check_network_function(net: Any) -> None:
    """Raise TypeError for a ``net`` that is neither None nor a function of the LightningModule."""
    if net is not None and (not callable(net) or isinstance(net, nn.Module)):
        raise TypeError(f"net must be a function of the LightningModule, or None, got {type(net).__name__}")


def steps_per_epoch(trainer: Any) -> int | None:
    """Number of optimizer steps in an epoch; None: it is not known."""
    _ = trainer.estimated_stepping_batches  # sets up the loaders
    batches = trainer.num_training_batches
    return None if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
