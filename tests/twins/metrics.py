"""Literal twins of `gnt.metrics`: each definition in numpy and float64, one line per formula.

Features are (samples, units) or (samples, channels, *size).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.stats

Array = np.ndarray


def unit_values(features: Array, i: int) -> Array:
    """All features of unit i, over samples and positions."""
    return features[:, i].reshape(-1).astype(np.float64)


def online_accuracy(output: Array, target: Array) -> float:
    rows = output.reshape(-1, output.shape[-1])
    return float(np.mean([np.argmax(row) == wanted for row, wanted in zip(rows, target.reshape(-1), strict=True)]))


def mean_squared_error(output: Array, target: Array) -> float:
    return float(np.mean((output.astype(np.float64) - target.astype(np.float64)) ** 2))


def dead_units(features: Array) -> float:
    units = features.shape[1]
    return sum(np.abs(unit_values(features, i)).sum() == 0 for i in range(units)) / units


def dormant_units(features: Array, tau: float) -> float:
    units = features.shape[1]
    magnitude = [np.abs(unit_values(features, i)).mean() for i in range(units)]
    layer_mean = sum(magnitude) / units
    if layer_mean == 0:
        return 1.0
    return sum(magnitude[i] / layer_mean <= tau for i in range(units)) / units


def singular_values(features: Array) -> Array:
    """Singular values above the threshold of numpy's matrix_rank, with the eps of the features' dtype (float32 for
    dtypes of lower precision).
    """
    matrix = features.reshape(len(features), -1)
    eps = np.finfo(np.float64 if features.dtype == np.float64 else np.float32).eps
    sigma = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    return sigma[sigma > max(matrix.shape) * eps * sigma.max()]


def effective_rank(features: Array) -> float:
    sigma = singular_values(features)
    return float(np.exp(scipy.stats.entropy(sigma / sigma.sum()))) if len(sigma) else 0.0


def approximate_rank(features: Array) -> int:
    return _smallest_rank(singular_values(features) ** 2)


def nature_rank(features: Array) -> int:
    return _smallest_rank(singular_values(features))


def _smallest_rank(parts: Array) -> int:
    """The smallest number of leading values with 99% of the sum."""
    for k in range(len(parts) + 1):
        if parts[:k].sum() >= 0.99 * parts.sum():
            return k
    raise AssertionError("unreachable")


def weight_magnitude(tensors: Sequence[Array]) -> float:
    values = [abs(float(value)) for tensor in tensors for value in tensor.reshape(-1)]
    return sum(values) / len(values)


def norm(tensors: Sequence[Array]) -> float:
    return float(np.sqrt(sum(float(value) ** 2 for tensor in tensors for value in tensor.reshape(-1))))


def update_size(before: Sequence[Array], after: Sequence[Array]) -> float:
    return norm([b.astype(np.float64) - a.astype(np.float64) for a, b in zip(before, after, strict=True)])


def plasticity(before: Array, after: Array, eps: float = 1e-8) -> float:
    return float(np.mean([max(1 - b / max(a, eps), 0) for a, b in zip(before.flat, after.flat, strict=True)]))
