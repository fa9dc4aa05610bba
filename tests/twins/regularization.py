"""Literal twins of the regularization methods: one number at a time, in float64, one line per formula."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray


def penalty(thetas: Sequence[Array], targets: Sequence[Array], strength: float) -> float:
    """strength * sum (theta - target)^2; targets are the initial values for L2 Init (arXiv 2308.11958), 0 for L2."""
    total = 0.0
    for theta, target in zip(thetas, targets, strict=True):
        for value, start in zip(theta.flatten(), target.flatten(), strict=True):
            total += strength * (value - start) ** 2
    return total


def penalty_gradient(theta: Array, target: Array, strength: float) -> Array:
    """2 * strength * (theta - target)"""
    return 2 * strength * (theta - target)


def bound(module: nn.Module) -> float:
    """1 / sqrt(fan_in): torch draws the weight and the bias of a layer from U(-bound, bound)."""
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(module.weight)
    return 1 / math.sqrt(fan_in)


def shrink_and_perturb(theta: Array, shrink: float, noise: float, p: Array) -> Array:
    """theta <- shrink * theta + noise * p (arXiv 1910.08475)"""
    out = np.empty_like(theta)
    for index in np.ndindex(theta.shape):
        out[index] = shrink * theta[index] + noise * p[index]
    return out


def crelu(x: Sequence[float]) -> list[float]:
    """(max(x, 0), max(-x, 0)) (arXiv 1603.05201)"""
    return [max(value, 0.0) for value in x] + [max(-value, 0.0) for value in x]


def arrays(net: nn.Module) -> list[Array]:
    """Copies of all parameters."""
    return [parameter.detach().numpy().copy() for parameter in net.parameters()]


def draws(parameters: Sequence[Tensor], kind: str, generator: torch.Generator) -> list[Array]:
    """Random numbers for the parameters in order, from one generator: uniform in [-1, 1) or normal, in float64."""
    flat = torch.empty(sum(p.numel() for p in parameters), dtype=torch.float64)
    flat.uniform_(-1, 1, generator=generator) if kind == "uniform" else flat.normal_(generator=generator)
    parts = flat.split([p.numel() for p in parameters])
    return [part.view(p.shape).numpy() for part, p in zip(parts, parameters, strict=True)]
