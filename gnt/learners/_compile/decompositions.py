"""Small matrix products as elementwise operations, which the compiler fuses with their neighbours.

A product over one sample is an outer product, which then need not be stored before it is added to the weights. For tiny
matrices a call of a library's product takes longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MAX_MULTIPLICATIONS = 1024  # products with more are left to the library
BLOCK_ROWS = 16  # rows that are summed at a time


def _mm(a: Tensor, b: Tensor) -> Any:
    (rows, inner), columns = a.shape, b.shape[1]
    if a.dtype != b.dtype:
        return NotImplemented
    if inner == 1:
        return a * b
    if rows * inner * columns <= MAX_MULTIPLICATIONS:
        return (a.unsqueeze(2) * b.unsqueeze(0)).sum(1)
    return NotImplemented


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    product = _mm(a, b) if beta == alpha == 1 and bias.dtype == a.dtype else NotImplemented
    return product if product is NotImplemented else bias + product


DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.mm.default: _mm,
    torch.ops.aten.addmm.default: _addmm,
}


def column_means(weight: Tensor) -> Tensor:
    """Mean of each column of a matrix, (columns,), summed in blocks of rows so that memory is read in order."""
    rows = len(weight)
    whole = rows // BLOCK_ROWS * BLOCK_ROWS
    columns = weight.shape[1]
    total = weight[:whole].reshape(-1, BLOCK_ROWS, columns).sum(1).sum(0) if whole else weight.new_zeros(columns)
    return (total + weight[whole:].sum(0) if whole < rows else total) / rows
