"""Products: matrix products that a compiler does better than a library, written as what they are.

A product over one sample is an outer product, which need not be in memory before it is added to the weights. And where
the matrices are tiny, the call costs more than the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TINY = 1024  # multiplications
BLOCK = 16  # rows that are summed at a time


def _mm(a: Tensor, b: Tensor) -> Any:
    (rows, inner), columns = a.shape, b.shape[1]
    if a.dtype != b.dtype:
        return NotImplemented
    if inner == 1:
        return a * b
    if rows * inner * columns <= TINY:
        return (a.unsqueeze(2) * b.unsqueeze(0)).sum(1)
    return NotImplemented


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    product = _mm(a, b) if beta == alpha == 1 and bias.dtype == a.dtype else NotImplemented
    return product if product is NotImplemented else bias + product


TABLE: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.mm.default: _mm,
    torch.ops.aten.addmm.default: _addmm,
}


def column_means(weight: Tensor) -> Tensor:
    """Mean of each column of a matrix: (columns,). Block by block of rows, so that memory is read in its order."""
    rows = len(weight)
    whole = rows // BLOCK * BLOCK
    total = (
        weight[:whole].reshape(-1, BLOCK, weight.shape[1]).sum(1).sum(0) if whole else weight.new_zeros(weight.shape[1])
    )
    return (total + weight[whole:].sum(0) if whole < rows else total) / rows
