"""`Measured`: the importance of units in one step, as FG-AdaHAT's sources return it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Measured(NamedTuple):
    """Values of a step, of the units of all groups one after the other, and numbers of groups that took no part."""

    values: Tensor
    absent: frozenset[int]
