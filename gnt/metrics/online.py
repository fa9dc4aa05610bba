"""Online accuracy and error, measured before each update, and the plasticity of a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnt._utils.validation import is_real
from gnt.metrics._numerics import to_float64
from gnt.metrics._validation import check_finite, check_floating, checked_number, checked_predictions


def online_accuracy(output: Tensor, target: Tensor) -> float:
    """Share of samples whose largest output is that of their class::

        mean over samples of [argmax_c output_c = target]

    It is *online* accuracy if ``output`` was computed *before* the update on these samples, so that each sample is
    tested before it is learned. The online accuracy of a task is the mean over all its samples. If several outputs are
    equally large, the first counts.

    Args:
        output: (..., classes), floating point; logits, log-probabilities or probabilities.
        target: (...), integers in 0..classes - 1. Samples of class -100, which torch's cross entropy ignores by
            default, are left out.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: not tensors.
        ValueError: shapes or dtypes that do not match, no samples, or another target outside 0..classes - 1.
        FloatingPointError: an output is NaN or infinite.

    Source: Dohare et al., Nature 632 (2024), Methods, Online Permuted MNIST; Kumar et al., arXiv 2308.11958, Section 4.

    >>> import torch
    >>> output = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    >>> round(online_accuracy(output, torch.tensor([0, 1, 1])), 3)
    0.667
    """
    output, target = checked_predictions(output, target)
    return int((output.argmax(-1) == target).sum()) / target.numel()


def online_error(output: Tensor, target: Tensor) -> float:
    """Error before the update: the share of wrong classes, or the mean squared error of real targets::

        1 - online_accuracy(output, target)         target: integers, (...) for an output of (..., classes)
        mean of (output - target)^2                 target: floating point, of the output's shape

    Args:
        output: floating point, computed before the update on these samples.
        target: classes or real targets; its dtype selects the formula. Samples of class -100 are left out.

    Returns:
        A number >= 0.

    Raises:
        TypeError: not tensors.
        ValueError: shapes or dtypes that do not match, no samples, or another target outside 0..classes - 1.
        FloatingPointError: an output or a real target is NaN or infinite.

    Source: Dohare et al., Nature 632 (2024), Methods; the squared error is that of Slowly-Changing Regression.

    >>> import torch
    >>> output = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    >>> online_error(output, torch.tensor([0, 0]))
    0.5
    >>> online_error(output, torch.tensor([[2.0, 2.0], [0.0, 3.0]]))
    0.25
    """
    if not isinstance(target, Tensor) or not target.is_floating_point():
        output, target = checked_predictions(output, target)
        return int((output.argmax(-1) != target).sum()) / target.numel()
    check_floating("output", output)
    if output.shape != target.shape or not output.numel():
        raise ValueError(
            "output must have the shape of a real target, with at least one value, got "
            f"{tuple(output.shape)} and {tuple(target.shape)}"
        )
    output, target = check_finite("output", to_float64(output)), check_finite("target", to_float64(target))
    return float((output - target).square().mean())


def plasticity(loss_before: float | Tensor, loss_after: float | Tensor, eps: float = 1e-8) -> float:
    """Relative reduction of a sample's loss by one update on that same sample, in [0, 1]::

        p = max(1 - L(W_{t+1}, same sample) / max(L(W_t, same sample), eps), 0)

    1: the update reduced the loss to 0; 0: it did not reduce the loss. For several samples the mean is returned.

    Args:
        loss_before: L(W_t), the loss with the weights before the update, >= 0; a number or a tensor of any shape.
        loss_after: L(W_{t+1}), the loss of the same samples with the weights after the update; same shape.
        eps: smallest divisor, > 0.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: neither numbers nor tensors.
        ValueError: shapes that differ, no samples, a negative loss, ``eps`` out of range.
        FloatingPointError: a loss is NaN or infinite.

    Source: Elsayed & Mahmood, ICLR 2024 (UPGD, arXiv 2404.00781), where it is called the plasticity of a learner.

    >>> plasticity(2.0, 0.5), plasticity(0.5, 2.0), plasticity(0.0, 0.0)
    (0.75, 0.0, 1.0)
    """
    eps = checked_number("eps", eps, exclusive=True)
    before, after = _checked_losses("loss_before", loss_before), _checked_losses("loss_after", loss_after)
    if before.shape != after.shape:
        raise ValueError(
            "loss_before and loss_after must be of the same samples, and so of one shape, got "
            f"{tuple(before.shape)} and {tuple(after.shape)}"
        )
    return float((1 - after / before.clamp_min(eps)).clamp_min(0).mean())


def _checked_losses(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        losses = check_finite(name, to_float64(check_floating(name, value)))
    elif is_real(value):
        losses = check_finite(name, torch.tensor(float(value), dtype=torch.float64, device="cpu"))
    else:
        raise TypeError(f"{name} must be a number or a torch.Tensor, got {type(value).__name__}")
    if not losses.numel():
        raise ValueError(f"{name} must hold at least one sample, got shape {tuple(losses.shape)}")
    if losses.min() < 0:
        raise ValueError(f"{name} must be at least 0, got {float(losses.min())!r}")
    return losses.cpu()
