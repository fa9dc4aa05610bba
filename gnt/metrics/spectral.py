"""How many directions a layer's features use: three ranks, each of the singular values of one matrix.

The matrix is what was read, one row a sample, not centred: (samples, units); of (samples, channels, *size) it is
(samples, channels * positions), as a flatten would give it, so that it does not matter on which side of one the
features are taken. With s_1 >= s_2 >= ... its singular values:

    effective_rank     exp of the entropy of s_i / sum s       a real number; Roy & Vetterli 2007
    approximate_rank   least k: s_1^2 + ... + s_k^2 >= 99%     squared; Yang et al. 2020
    nature_rank        least k: s_1 + ... + s_k >= 99%         not squared; the "stable rank" of Dohare et al. 2024

The stable rank of numerical linear algebra, ||A||_F^2 / ||A||_2^2, is none of these, and is not here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnt.metrics import _validation as checks

SHARE = 0.99


def spectrum(features: Tensor) -> Tensor:
    """Singular values of *checked* features, largest first, of the matrix divided by the power of two just above its
    largest magnitude.

    They are computed in float32, or float64 for features of that; those at most max(rows, columns) * eps * s_1 are
    rounding (eps: of the dtype computed in), and are given as 0: what numpy's matrix_rank leaves out.

    Returns:
        (min(rows, columns),), at least 0, in float64 on the CPU.

    >>> import torch
    >>> spectrum(torch.diag(torch.tensor([3.0, 6.0]))).tolist()
    [0.75, 0.375]
    """
    matrix = features.flatten(1)
    largest = float(matrix.abs().max())
    if not largest:
        return torch.zeros(min(matrix.shape), dtype=torch.float64)
    # no rank depends on the scale; of this one no square overflows or vanishes
    values = torch.linalg.svdvals(checks.scaled(matrix, largest)).cpu().double()
    rounding = max(matrix.shape) * torch.finfo(matrix.dtype).eps * values[0]
    return torch.where(values > rounding, values, 0.0)


def effective_rank(features: Tensor) -> float:
    """Effective rank: how many directions the features use, each counted by its weight::

        exp(-sum_i p_i log p_i),    p_i = s_i / sum_k s_k

    with s the singular values, and 0 log 0 = 0. It is min(rows, columns) where all are equal, 1 where there is but one,
    and 0 of a matrix that is 0 throughout.

    Args:
        features: (samples, units), one row a sample, not centred; (samples, channels, *size) is flattened to (samples,
            channels * positions).

    Returns:
        A number in [1, min(rows, columns)], or 0.

    Raises:
        TypeError: ``features`` is no tensor.
        ValueError: not floating point, fewer than two dimensions, no samples or no units.
        FloatingPointError: not finite.

    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007, Definition 1. Dohare et al., Nature 632 (2024), Methods.

    >>> import torch
    >>> round(effective_rank(torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0]))), 6)
    3.0
    """
    return effective_rank_of(spectrum(checks.features(features)))


def approximate_rank(features: Tensor) -> int:
    """Approximate rank: how many directions hold 99% of the features' *squared* singular values, their energy::

        least k such that sum_{i<=k} s_i^2 >= 0.99 * sum_i s_i^2

    0 of a matrix that is 0 throughout.

    Args:
        features: (samples, units), one row a sample, not centred; (samples, channels, *size) is flattened to (samples,
            channels * positions).

    Returns:
        An integer in 0..min(rows, columns).

    Raises:
        TypeError: ``features`` is no tensor.
        ValueError: not floating point, fewer than two dimensions, no samples or no units.
        FloatingPointError: not finite.

    Source: Yang et al., "Harnessing structures for value-based planning and reinforcement learning", ICLR 2020.

    >>> import torch
    >>> approximate_rank(torch.diag(torch.tensor([10.0, 1.0, 0.5])))    # 100 of 101.25, 101 of 101.25
    2
    """
    return approximate_rank_of(spectrum(checks.features(features)))


def nature_rank(features: Tensor) -> int:
    """The rank that the Nature paper calls "stable rank": how many directions hold 99% of the singular values
    *themselves*, not squared::

        least k such that sum_{i<=k} s_i >= 0.99 * sum_i s_i

    It is an integer. It is NOT the stable rank of numerical linear algebra, ||A||_F^2 / ||A||_2^2 = sum s_i^2 / s_1^2,
    a real number that is often a tenth of this one; hence the other name here. Nor is it `approximate_rank`, which
    squares the singular values, and is never more than this one. 0 of a matrix that is 0 throughout.

    Args:
        features: (samples, units), one row a sample, not centred; (samples, channels, *size) is flattened to (samples,
            channels * positions).

    Returns:
        An integer in 0..min(rows, columns).

    Raises:
        TypeError: ``features`` is no tensor.
        ValueError: not floating point, fewer than two dimensions, no samples or no units.
        FloatingPointError: not finite.

    Source: Dohare et al., Nature 632 (2024), Methods, "stable rank"; the form is srank of Kumar et al., ICLR 2021
    (arXiv 2010.14498), with delta = 0.01.

    >>> import torch
    >>> a = torch.diag(torch.tensor([10.0, 1.0, 0.5]))
    >>> nature_rank(a)                                                  # 10, 11, 11.5 of 11.5
    3
    >>> float(a.square().sum() / torch.linalg.matrix_norm(a, 2) ** 2)   # what else is called stable rank
    1.0125...
    """
    return nature_rank_of(spectrum(checks.features(features)))


def effective_rank_of(values: Tensor) -> float:
    """`effective_rank` of singular values as `spectrum` gives them."""
    total = values.sum()
    if not total:
        return 0.0
    shares = values[values > 0] / total
    return float(torch.exp(-(shares * shares.log()).sum()))


def approximate_rank_of(values: Tensor) -> int:
    """`approximate_rank` of singular values as `spectrum` gives them."""
    return _least(values.square())


def nature_rank_of(values: Tensor) -> int:
    """`nature_rank` of singular values as `spectrum` gives them."""
    return _least(values)


def _least(parts: Tensor) -> int:
    """How many of the first parts make up the share of all."""
    sums = parts.cumsum(0)
    return int((sums < SHARE * sums[-1]).sum()) + 1 if sums[-1] else 0
