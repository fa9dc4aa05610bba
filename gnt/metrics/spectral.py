"""Ranks of a layer's features: how many directions the features use. Each is computed from singular values.

The matrix has one row for each sample and is not centred: (samples, units). Features (samples, channels, *size) become
(samples, channels * positions), as `torch.nn.Flatten` orders them, so the ranks before and after a flatten are equal.
With s_1 >= s_2 >= ... its singular values:

    effective_rank     exp of the entropy of s_i / sum s       a real number; Roy & Vetterli 2007
    approximate_rank   least k: s_1^2 + ... + s_k^2 >= 99%     squared; Yang et al. 2020
    nature_rank        least k: s_1 + ... + s_k >= 99%         not squared; the "stable rank" of Dohare et al. 2024

None of them is the stable rank of numerical linear algebra, ||A||_F^2 / ||A||_2^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnt.metrics._numerics import scale_to_unit_range
from gnt.metrics._validation import checked_features

SHARE = 0.99


def singular_values(features: Tensor) -> Tensor:
    """Singular values of *checked* features, largest first, up to a common factor (a power of two).

    Computed in float32, or in float64 for float64 features. Values <= max(rows, columns) * eps * s_1, with eps of the
    dtype used, are rounding errors and are returned as 0; numpy's ``matrix_rank`` uses the same threshold.

    Returns:
        (min(rows, columns),), >= 0, in float64 on the CPU.

    >>> import torch
    >>> singular_values(torch.diag(torch.tensor([3.0, 6.0]))).tolist()
    [0.75, 0.375]
    """
    matrix = features.flatten(1)
    largest = float(matrix.abs().max())
    if not largest:
        return torch.zeros(min(matrix.shape), dtype=torch.float64, device="cpu")
    # the ranks do not depend on the scale; with this one no square overflows or underflows
    values = torch.linalg.svdvals(scale_to_unit_range(matrix, largest)).cpu().double()
    rounding = max(matrix.shape) * torch.finfo(matrix.dtype).eps * values[0]
    return torch.where(values > rounding, values, 0.0)


def effective_rank(features: Tensor, *, unit_dim: int = 1) -> float:
    """Effective rank: exponential of the entropy of the normalized singular values s::

        exp(-sum_i p_i log p_i),    p_i = s_i / sum_k s_k,    0 log 0 = 0

    It is min(rows, columns) if all singular values are equal, 1 if only one is nonzero, and 0 for a matrix of zeros.

    Args:
        features: (samples, units), not centred; (samples, channels, *size) is flattened to one row for each sample.
        unit_dim: the dimension of the units; with -1 each position of (batch, time, units) is a row.

    Returns:
        A number in [1, min(rows, columns)], or 0.

    Raises:
        TypeError, ValueError, FloatingPointError: not a tensor; not floating point or empty; not finite.

    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007, Definition 1. Dohare et al., Nature 632 (2024), Methods.

    >>> import torch
    >>> round(effective_rank(torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0]))), 6)
    3.0
    """
    return effective_rank_from(singular_values(checked_features(features, unit_dim)))


def approximate_rank(features: Tensor, *, unit_dim: int = 1) -> int:
    """Approximate rank: number of directions that hold 99% of the sum of *squared* singular values s::

        least k such that sum_{i<=k} s_i^2 >= 0.99 * sum_i s_i^2

    It is 0 for a matrix of zeros.

    Args:
        features: (samples, units), not centred; (samples, channels, *size) is flattened to one row for each sample.
        unit_dim: the dimension of the units; with -1 each position of (batch, time, units) is a row.

    Returns:
        An integer in 0..min(rows, columns).

    Raises:
        TypeError, ValueError, FloatingPointError: not a tensor; not floating point or empty; not finite.

    Source: Yang et al., "Harnessing structures for value-based planning and reinforcement learning", ICLR 2020.

    >>> import torch
    >>> approximate_rank(torch.diag(torch.tensor([10.0, 1.0, 0.5])))    # 100 of 101.25, 101 of 101.25
    2
    """
    return approximate_rank_from(singular_values(checked_features(features, unit_dim)))


def nature_rank(features: Tensor, *, unit_dim: int = 1) -> int:
    """The "stable rank" of Dohare et al.: number of directions that hold 99% of the sum of singular values s::

        least k such that sum_{i<=k} s_i >= 0.99 * sum_i s_i

    It differs from the stable rank of numerical linear algebra, ||A||_F^2 / ||A||_2^2 = sum s_i^2 / s_1^2, a real
    number that is often ten times smaller; hence the different name here. It differs from `approximate_rank`, which
    squares the singular values and never exceeds this rank. It is 0 for a matrix of zeros.

    Args:
        features: (samples, units), not centred; (samples, channels, *size) is flattened to one row for each sample.
        unit_dim: the dimension of the units; with -1 each position of (batch, time, units) is a row.

    Returns:
        An integer in 0..min(rows, columns).

    Raises:
        TypeError, ValueError, FloatingPointError: not a tensor; not floating point or empty; not finite.

    Source: Dohare et al., Nature 632 (2024), Methods, "stable rank"; the form is srank of Kumar et al., ICLR 2021
    (arXiv 2010.14498), with delta = 0.01.

    >>> import torch
    >>> a = torch.diag(torch.tensor([10.0, 1.0, 0.5]))
    >>> nature_rank(a)                                                  # 10, 11, 11.5 of 11.5
    3
    >>> float(a.square().sum() / torch.linalg.matrix_norm(a, 2) ** 2)   # stable rank in linear algebra
    1.0125...
    """
    return nature_rank_from(singular_values(checked_features(features, unit_dim)))


def effective_rank_from(values: Tensor) -> float:
    """`effective_rank` from the result of `singular_values`."""
    total = values.sum()
    if not total:
        return 0.0
    shares = values[values > 0] / total
    return float(torch.exp(-(shares * shares.log()).sum()))


def approximate_rank_from(values: Tensor) -> int:
    """`approximate_rank` from the result of `singular_values`."""
    return _count_reaching_share(values.square())


def nature_rank_from(values: Tensor) -> int:
    """`nature_rank` from the result of `singular_values`."""
    return _count_reaching_share(values)


def _count_reaching_share(terms: Tensor) -> int:
    """Number of leading terms whose sum reaches `SHARE` of the total; 0 if the total is 0."""
    sums = terms.cumsum(0)
    return int((sums < SHARE * sums[-1]).sum()) + 1 if sums[-1] else 0
