"""Moments of weights without gradient, with which the CPU computes several times as slowly as with others.

They decay to subnormal numbers (below 1e-38 in float32) and, by rounding, stay there: the second moments at 7e-43 for
b2 = 0.999. `flush_subnormal` sets them to zero. `square_roots` avoids roots of zeros, which are slow as well.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

FLUSH_INTERVAL = 8
"""Subnormal moments become zero in one of so many steps. A step that does this takes a tenth longer."""

_MIN_EPS = 1e-10  # as in the C kernel (gnt/_kernels/adam.c): with a smaller eps, subnormal moments can matter

# float16 is left out: its subnormal numbers begin at 6e-5, where moments do matter
_LARGEST_SUBNORMAL = {
    dtype: torch.nextafter(
        torch.tensor(torch.finfo(dtype).tiny, dtype=dtype, device="cpu"), torch.zeros((), dtype=dtype, device="cpu")
    ).item()
    for dtype in (torch.float32, torch.float64, torch.bfloat16)
}

_MIN_EPS_OF_ROOTS = 1e-8  # eps + 1e-19, the root of the smallest normal number, is then equal to eps
_MIN_SIZE = 1 << 12  # the computation of fewer elements takes no longer than the calls
_SAMPLED_ROWS = 32


def flush_subnormal(moments: Iterable[Tensor], eps: float) -> None:
    """Set subnormal moments on the CPU to zero, in place, unless they could matter."""
    if eps < _MIN_EPS:
        return
    for moment in moments:
        largest = _LARGEST_SUBNORMAL.get(moment.dtype)
        if largest is not None and moment.is_cpu:
            torch.hardshrink(moment, largest, out=moment)  # keeps NaN


def has_many_zeros(moment: Tensor) -> bool:
    """True if a sample of the rows of a large tensor on the CPU contains so many zeros that their roots are slow."""
    if not moment.is_cpu or moment.numel() < _MIN_SIZE:
        return False
    sample = moment[:: max(1, moment.shape[0] // _SAMPLED_ROWS)]
    return int(torch.count_nonzero(sample)) < sample.numel() * 15 // 16


def square_roots(values: list[Tensor], eps: float, *, many_zeros: bool) -> list[Tensor]:
    """The square roots of float32 or float64 tensors, to which eps is to be added. NaN remains NaN.

    torch can take ten times as long for the root of zero as for that of another number. With ``many_zeros``, zeros
    count as the smallest normal number if its root changes no sum with eps.
    """
    if not many_zeros or eps < _MIN_EPS_OF_ROOTS:
        return list(torch._foreach_sqrt(values))
    roots = list(torch._foreach_clamp_min(values, torch.finfo(values[0].dtype).tiny))
    torch._foreach_sqrt_(roots)
    return roots
