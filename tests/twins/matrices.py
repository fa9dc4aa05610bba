"""Literal twins of methods that act on singular values, and of input normalization: loops in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def fire(weight: Array, iterations: int) -> Array:
    """W <- sqrt(d_out/d_in)/k * (Newton-Schulz steps of W/||W||), at each kernel position (arXiv 2602.08040)."""
    outputs, inputs, *kernel = weight.shape
    out = np.empty_like(weight)
    for position in np.ndindex(*kernel):
        x = weight[(slice(None), slice(None), *position)]
        x = x / math.sqrt((x**2).sum())
        for _ in range(iterations):
            x = 1.5 * x - 0.5 * x @ x.T @ x
        out[(slice(None), slice(None), *position)] = math.sqrt(outputs / inputs) / math.prod(kernel) * x
    return out


def spectral_penalty(weights: Sequence[Array], strength: float, exponent: float) -> float:
    """strength * sum (sigma_max^k - 1)^2, with sigma_max from the whole decomposition (arXiv 2406.06811)."""
    largest = [np.linalg.svd(weight.reshape(len(weight), -1))[1].max() for weight in weights]
    return strength * sum((sigma**exponent - 1) ** 2 for sigma in largest)


def parseval_penalty(weights: Sequence[Array], strength: float, scale: float) -> float:
    """strength * sum ||W W^T - s I||^2, entry by entry (arXiv 2412.07224)."""
    total = 0.0
    for weight in weights:
        rows = weight.reshape(len(weight), -1)
        for i, first in enumerate(rows):
            for j, second in enumerate(rows):
                total += (float(first @ second) - scale * (i == j)) ** 2
    return strength * total


def input_norm(batches: Sequence[Array], decay: float, eps: float) -> Array:
    """The last batch, normalized by mean and variance of all samples weighted by decay^age of their batch."""
    weights, samples = [], []
    for age, batch in enumerate(reversed(batches)):
        for sample in batch:
            weights.append(decay**age / len(batch))
            samples.append(sample)
    share = np.array(weights)[:, None] / sum(weights)
    mean = (share * np.array(samples)).sum(0)
    variance = (share * (np.array(samples) - mean) ** 2).sum(0)
    return (batches[-1] - mean) / np.sqrt(variance + eps)
