"""The options of the optimizers that learners take by name."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor


class OptimizerOptions(TypedDict, total=False):
    """Options of "sgd", "adam" and "adamw"; each optimizer refuses those that it does not have.

    A TypedDict and not arguments, because the defaults are those of the optimizer that is named.
    """

    weight_decay: float
    maximize: bool
    foreach: bool | None
    fused: bool | None
    differentiable: bool
    # sgd
    momentum: float
    dampening: float
    nesterov: bool
    # adam and adamw
    betas: tuple[float | Tensor, float | Tensor]
    eps: float
    amsgrad: bool
    capturable: bool
