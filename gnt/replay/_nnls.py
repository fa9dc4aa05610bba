"""Non-negative least squares on a Gram matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TOLERANCE = 1e-11  # of a residual, relative to the largest entry of the linear term


def nonnegative_least_squares(gram: Floats, linear: Floats) -> Floats:
    """The u >= 0 that minimizes 1/2 u^T K u + u^T d, for a positive semidefinite K.

    With K = G G^T and d = G c this is the minimum of ||G^T u + c||. Rows of G may be 0, equal, dependent, and more than
    G has columns.

    Args:
        gram: K, (t, t).
        linear: d, (t,); where K has a zero on its diagonal it must be 0.

    Source: Lawson & Hanson, Solving Least Squares Problems, 1974, chapter 23, with the cross products of Bro & de Jong,
    J. Chemometrics 1997.
    """
    norms = np.sqrt(np.diagonal(gram).clip(min=0.0))
    usable = norms > 0.0
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=usable)  # rows of length 1: no unit matters
    gram, linear = gram * np.outer(scale, scale), linear * scale
    tolerance = _TOLERANCE * float(np.abs(linear).max(initial=0.0))
    solution = np.zeros_like(linear)
    positive = np.zeros(len(linear), dtype=bool)
    rejected = ~usable  # entries that rounding keeps from becoming positive
    while True:
        descent = np.where(positive | rejected, -np.inf, -(gram @ solution + linear))
        entry = int(descent.argmax()) if len(descent) else 0
        if not len(descent) or not descent[entry] > tolerance:
            break
        before = solution.copy(), positive.copy()
        positive[entry] = True
        target = _minimum(gram, linear, positive)
        if target[entry] <= 0.0:
            positive[entry], rejected[entry] = False, True
            continue
        while (target[positive] <= 0.0).any():
            blocking = positive & (target <= 0.0)
            share = (solution[blocking] / (solution[blocking] - target[blocking])).min()
            solution = solution + share * (target - solution)
            positive &= ~(blocking & (solution <= _TOLERANCE * np.abs(solution).max(initial=0.0)))
            solution[~positive] = 0.0
            target = _minimum(gram, linear, positive)
        if not _value(gram, linear, target) < _value(gram, linear, before[0]):  # no progress beyond rounding
            (solution, positive), rejected[entry] = before, True
            continue
        solution, rejected = target, ~usable
    result: Floats = solution * scale
    return result


def _minimum(gram: Floats, linear: Floats, free: NDArray[np.bool_]) -> Floats:
    """The minimum without bounds over the free entries, the others 0."""
    result = np.zeros_like(linear)
    result[free] = np.linalg.lstsq(gram[np.ix_(free, free)], -linear[free], rcond=None)[0]
    return result


def _value(gram: Floats, linear: Floats, u: Floats) -> float:
    return float(0.5 * u @ gram @ u + u @ linear)
