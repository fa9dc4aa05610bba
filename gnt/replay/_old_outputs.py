"""Losses that keep a network's outputs near those that it gave earlier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from torch import Tensor

from gnt.names import TargetName

Loss = Callable[[Tensor, Tensor], Tensor]
TARGETS = get_args(TargetName)


def soft_cross_entropy(output: Tensor, old: Tensor, temperature: float) -> Tensor:
    """Return the mean over samples of the cross-entropy of softmax(output / T) and softmax(old / T).

    Args:
        output: logits, (batch, classes, ...).
        old: earlier logits, of as many classes or fewer: the probability of those behind is 0.
        temperature: T.
    """
    log_probability = (output / temperature).log_softmax(1)[:, : old.shape[1]]
    return -((old / temperature).softmax(1) * log_probability).sum(1).mean()


def checked_targets(targets: Any) -> TargetName | Loss:
    """Return ``targets``, or raise ValueError unless it is "hard", "soft" or a function."""
    known: TargetName | Loss = targets
    if callable(targets) or (isinstance(targets, str) and targets in TARGETS):
        return known
    raise ValueError(f"targets must be 'hard', 'soft' or a function (output, old output) -> scalar, got {targets!r}")


def loss_on_old(output: Tensor, old: Tensor, targets: TargetName | Loss, temperature: float, loss: Loss) -> Tensor:
    """Return the loss of outputs for which the earlier ones are known.

    Raises:
        ValueError: no classes, for "hard" and "soft".
    """
    if not isinstance(targets, str):
        return targets(output, old)
    if old.ndim < 2 or old.shape[1] < 2:
        raise ValueError(
            f"targets={targets!r} needs outputs (batch, classes, ...), got {tuple(old.shape)}; give a function "
            "(output, old output) -> scalar, such as torch.nn.functional.mse_loss"
        )
    if targets == "hard":
        return loss(output, old.argmax(1))
    return temperature**2 * soft_cross_entropy(output, old, temperature)


def number_of_outputs(output: Any) -> int | None:
    """Return the number of outputs in dimension 1; None if there is no such dimension.

    Raises:
        TypeError: not a tensor.
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"output must be the network's output, a tensor, got {type(output).__name__}")
    return output.shape[1] if output.ndim > 1 else None


def first_outputs(output: Tensor, number: int | None) -> Tensor:
    """Return the first outputs, those that the network had earlier; all if ``number`` is None."""
    return output if number is None or output.ndim < 2 else output[:, :number]
