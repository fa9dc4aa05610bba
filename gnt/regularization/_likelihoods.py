"""Directions in output space whose gradients, squared and summed, are the diagonal Fisher information of one sample."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from gnt.names import FisherName, LikelihoodName

FISHERS, LIKELIHOODS = get_args(FisherName), get_args(LikelihoodName)


class FisherDirections:
    """Maps the output (1, ...) of one sample to directions (K, 1, ...), one backward pass for each.

    Probabilities and drawn numbers are of float32 or wider, and the directions of the output's dtype.

    Args:
        fisher: which labels: all, weighted by their probability; one drawn from the model; the true one.
        likelihood: what the outputs mean.
        generator: generator of the drawn labels.
    """

    square = True

    def __init__(self, fisher: str, likelihood: str, generator: torch.Generator | None) -> None:
        self.fisher, self.likelihood, self.generator = fisher, likelihood, generator

    def check_output(self, output: Tensor) -> None:
        """Raise ValueError for an output (1, ...) that the likelihood does not fit."""
        if self.likelihood == "categorical" and (output.ndim != 2 or output.shape[1] < 2):
            raise ValueError(
                "likelihood 'categorical' takes outputs (samples, classes) with at least 2 classes, got "
                f"(samples, {', '.join(map(str, output.shape[1:]))}); 'bernoulli' and 'gaussian' take any shape"
            )

    def targets(self, y: Tensor | None, count: int, output: Tensor) -> Tensor:
        """What `__call__` gets for each sample: labels, random numbers for them, or nothing.

        Raises:
            ValueError: labels that are missing or do not fit.
        """
        shape = (count, *output.shape[1:])
        if self.fisher == "exact":
            return output.new_zeros(count)
        if self.fisher == "sample":
            if self.likelihood == "categorical":
                shape = (count,)
            draw: Any = torch.randn if self.likelihood == "gaussian" else torch.rand
            device = self.generator.device if self.generator is not None else output.device
            drawn: Tensor = draw(shape, generator=self.generator, device=device, dtype=_wide(output.dtype))
            return drawn.to(output.device)
        if y is None:
            raise ValueError("fisher='empirical' needs labels: data must be (x, y) or batches of (x, y)")
        if self.likelihood != "categorical":
            if y.shape != shape:
                raise ValueError(f"y must have the shape of the output, {tuple(shape)}, got {tuple(y.shape)}")
            return y.to(_wide(output.dtype))
        if y.dtype.is_floating_point or y.dtype.is_complex or y.shape != (count,):
            raise ValueError(f"y must be integer labels of shape ({count},), got {y.dtype} of shape {tuple(y.shape)}")
        classes = output.shape[1]
        if count and not 0 <= int(y.min()) <= int(y.max()) < classes:
            raise ValueError(f"labels must be in 0..{classes - 1}, got {int(y.min())}..{int(y.max())}")
        return y

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The directions for one sample."""
        wide = output.to(_wide(output.dtype))
        if self.likelihood == "categorical":
            return self._categorical(wide[0], target).unsqueeze(1).to(output.dtype)
        flat = wide.flatten()
        if self.likelihood == "gaussian":
            if self.fisher == "exact":
                rows = torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
            else:
                rows = (target.flatten() if self.fisher == "sample" else target.flatten() - flat)[None]
        else:
            p = flat.sigmoid()
            if self.fisher == "exact":
                rows = torch.diag_embed((p * (1 - p)).sqrt())
            else:
                labels = (target.flatten() < p).to(p.dtype) if self.fisher == "sample" else target.flatten()
                rows = (labels - p)[None]
        return rows.reshape(-1, *output.shape).to(output.dtype)

    def _categorical(self, logits: Tensor, target: Tensor) -> Tensor:
        p = logits.softmax(0)
        classes = torch.arange(len(p), device=p.device)
        if self.fisher == "exact":
            one_hot = (classes[:, None] == classes).to(p.dtype)
            return p.sqrt()[:, None] * (one_hot - p)
        label = (p.cumsum(0) < target).sum().clamp(max=len(p) - 1) if self.fisher == "sample" else target
        return ((classes == label).to(p.dtype) - p)[None]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Float32 or wider: in 16 bits random numbers are few, and a probability near 1 is 1."""
    return torch.promote_types(dtype, torch.float32)


class NormDirections:
    """The gradient of the squared norm of the output, 2 f (MAS)."""

    square = False

    def check_output(self, output: Tensor) -> None:
        """Any output will do."""

    def targets(self, y: Tensor | None, count: int, output: Tensor) -> Tensor:
        """Nothing: no labels are needed."""
        return output.new_zeros(count)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The direction for one sample."""
        return 2.0 * output[None]
