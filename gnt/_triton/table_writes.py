"""A kernel that writes its own arguments into a tensor.

So a few numbers of the host reach the device without a copy from host memory, which matters while a CUDA graph is
captured: a captured copy would read the host's memory again at each replay, when it may have changed.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, import-not-found, misc"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

_AT_ONCE = 16
_OFFSET = 1 << 33  # added to each number, so that all have the type int64 and none is specialized as 1


@triton.jit(do_not_specialize=[f"x{i}" for i in range(16)])
def _write(
    table, first, offset: tl.constexpr, x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15
):  # fmt: skip
    at = table + first
    tl.store(at, x0 - offset)
    tl.store(at + 1, x1 - offset)
    tl.store(at + 2, x2 - offset)
    tl.store(at + 3, x3 - offset)
    tl.store(at + 4, x4 - offset)
    tl.store(at + 5, x5 - offset)
    tl.store(at + 6, x6 - offset)
    tl.store(at + 7, x7 - offset)
    tl.store(at + 8, x8 - offset)
    tl.store(at + 9, x9 - offset)
    tl.store(at + 10, x10 - offset)
    tl.store(at + 11, x11 - offset)
    tl.store(at + 12, x12 - offset)
    tl.store(at + 13, x13 - offset)
    tl.store(at + 14, x14 - offset)
    tl.store(at + 15, x15 - offset)


def padded_size(count: int) -> int:
    """The smallest size of a table for so many numbers."""
    return -(-count // _AT_ONCE) * _AT_ONCE


def write_numbers(table: Tensor, numbers: Sequence[int]) -> None:
    """Write whole numbers into an int64 table of at least `padded_size` elements; numbers after them become 0."""
    kernel: Any = _write
    for first in range(0, len(numbers), _AT_ONCE):
        part = [number + _OFFSET for number in numbers[first : first + _AT_ONCE]]
        part += [_OFFSET] * (_AT_ONCE - len(part))
        kernel[(1,)](table, first, _OFFSET, *part)
