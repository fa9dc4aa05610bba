"""How well a learner learns: before each update (online accuracy and error), and by each update (plasticity)."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from gnt.metrics import _validation as checks


def online_accuracy(output: Tensor, target: Tensor) -> float:
    """Share of samples whose largest output is that of their class::

        mean over samples of [argmax_c output_c = target]

    *Online* is when it is asked: of the output that was computed *before* the update on these samples, so that every
    sample is a test first and then learned from. The online accuracy of a task is the mean over all of its samples.
    Of several equal largest outputs the first counts.

    Args:
        output: (..., classes), floating point; logits, log-probabilities or probabilities.
        target: (...), integers in 0..classes - 1.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: no tensors.
        ValueError: shapes or dtypes that do not fit, no samples, a target that is no class.
        FloatingPointError: an output that is not finite.

    Source: Dohare et al., Nature 632 (2024), Methods, Online Permuted MNIST; Kumar et al., arXiv 2308.11958, Section 4.

    >>> import torch
    >>> output = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    >>> round(online_accuracy(output, torch.tensor([0, 1, 1])), 3)
    0.667
    """
    output, target = checks.predictions(output, target)
    return int((output.argmax(-1) == target).sum()) / target.numel()


def online_error(output: Tensor, target: Tensor) -> float:
    """What the output before the update misses: of classes the share that is wrong, of real numbers the squared error::

        1 - online_accuracy(output, target)         target: integers, (...) for an output of (..., classes)
        mean of (output - target)^2                 target: floating point, of the output's shape

    Args:
        output: floating point, computed before the update on these samples.
        target: decides by its dtype which of the two it is.

    Returns:
        A number of at least 0.

    Raises:
        TypeError: no tensors.
        ValueError: shapes or dtypes that do not fit, no samples, a target that is no class.
        FloatingPointError: an output or a real target that is not finite.

    Source: Dohare et al., Nature 632 (2024), Methods: the squared error is that of Slowly-Changing Regression.

    >>> import torch
    >>> output = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    >>> online_error(output, torch.tensor([0, 0]))
    0.5
    >>> online_error(output, torch.tensor([[2.0, 2.0], [0.0, 3.0]]))
    0.25
    """
    if not isinstance(target, Tensor) or not target.is_floating_point():
        output, target = checks.predictions(output, target)
        return int((output.argmax(-1) != target).sum()) / target.numel()
    checks.floating("output", output)
    if output.shape != target.shape or not output.numel():
        raise ValueError(
            "output must have the shape of a real target, with at least one value, got "
            f"{tuple(output.shape)} and {tuple(target.shape)}"
        )
    output, target = checks.finite("output", checks.double(output)), checks.finite("target", checks.double(target))
    return float((output - target).square().mean())


def plasticity(loss_before: float | Tensor, loss_after: float | Tensor, eps: float = 1e-8) -> float:
    """How much of a sample's loss one update on that very sample takes away, in [0, 1]::

        p = max(1 - L(W_{t+1}, same sample) / max(L(W_t, same sample), eps), 0)

    1: nothing is left of the loss; 0: the update did not lessen it. Of several samples the mean of theirs.

    Args:
        loss_before: L(W_t): the loss by the weights before the update, at least 0; a number or a tensor of any shape.
        loss_after: L(W_{t+1}): that of the same samples by the weights after it, of the same shape.
        eps: the least loss that is divided by, above 0.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: neither numbers nor tensors.
        ValueError: shapes that differ, no samples, a negative loss, ``eps`` out of range.
        FloatingPointError: a loss that is not finite.

    Source: Elsayed & Mahmood, ICLR 2024 (UPGD, arXiv 2404.00781), where it is called the plasticity of a learner.

    >>> plasticity(2.0, 0.5), plasticity(0.5, 2.0), plasticity(0.0, 0.0)
    (0.75, 0.0, 1.0)
    """
    eps = checks.number("eps", eps, above=0.0, least=False)
    before, after = _losses("loss_before", loss_before), _losses("loss_after", loss_after)
    if before.shape != after.shape:
        raise ValueError(
            "loss_before and loss_after must be of the same samples, and so of one shape, got "
            f"{tuple(before.shape)} and {tuple(after.shape)}"
        )
    return float((1 - after / before.clamp_min(eps)).clamp_min(0).mean())


def _losses(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        losses = checks.finite(name, checks.double(checks.floating(name, value)))
    elif isinstance(value, Real) and not isinstance(value, bool):
        losses = checks.finite(name, torch.tensor(float(value), dtype=torch.float64))
    else:
        raise TypeError(f"{name} must be a number or a torch.Tensor, got {type(value).__name__}")
    if not losses.numel():
        raise ValueError(f"{name} must hold at least one sample, got shape {tuple(losses.shape)}")
    if losses.min() < 0:
        raise ValueError(f"{name} must be at least 0, got {float(losses.min())!r}")
    return losses.cpu()
