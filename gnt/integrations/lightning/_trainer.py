"""What the callbacks read of a trainer."""

from __future__ import annotations

import math
from typing import Any

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


def steps_per_epoch(trainer: Any) -> int | None:
    """Number of optimizer steps in an epoch; None: it is not known."""
    _ = trainer.estimated_stepping_batches  # sets up the loaders
    batches = trainer.num_training_batches
    return None if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
