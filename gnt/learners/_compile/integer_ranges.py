"""IntegerRanges: the integers that steps have taken without an error, which a graph on the CPU must not leave."""

from __future__ import annotations

import torch
from torch import Tensor


class IntegerRanges:
    """The smallest and the largest integer in x and in y, such as class indices, of steps that have succeeded.

    In compiled code that runs on several threads an index out of range ends the process. Batches with other integers
    than before are therefore to run eagerly: these raise the usual error, or widen the range.

    Args:
        inputs: integers in x are indices; otherwise only those in y.
    """

    def __init__(self, *, inputs: bool) -> None:
        self._inputs = inputs
        self._ranges: dict[int, tuple[int, int]] = {}  # 0: of x, 1: of y

    def hold(self, x: Tensor, y: Tensor) -> bool:
        """True if all integers are in the ranges, or an index out of range would raise an error."""
        if not self._ranges or torch.get_num_threads() == 1:
            return True
        for place, (least, most) in self._ranges.items():
            low, high = _range_of((x, y)[place])
            if low < least or high > most:
                return False
        return True

    def widen(self, x: Tensor, y: Tensor) -> None:
        """Let the ranges hold the integers of a batch."""
        for place, each in enumerate((x, y)):
            if (place or self._inputs) and each.is_cpu and each.dtype in _INTEGERS and each.numel():
                low, high = _range_of(each)
                least, most = self._ranges.get(place, (low, high))
                self._ranges[place] = min(low, least), max(high, most)


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _range_of(tensor: Tensor) -> tuple[int, int]:
    low, high = tensor.aminmax()
    return int(low), int(high)
