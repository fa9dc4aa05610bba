"""Immutable Python values, and when two of them make the same graph."""

from __future__ import annotations

import enum
import math
from types import MethodType
from typing import Any

import numpy as np
import torch

IMMUTABLE = (
    bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice, enum.Enum, np.generic, np.dtype,
    torch.dtype, torch.device, torch.layout, torch.memory_format,
)  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """True if both are the same object, or equal immutable values of one type."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (float, np.floating)):
        return bool(a == b and math.copysign(1.0, a) == math.copysign(1.0, b)) or bool(a != a and b != b)
    if isinstance(a, IMMUTABLE):
        return bool(a == b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, frozenset):
        return bool(a == b)
    return isinstance(a, MethodType) and a.__self__ is b.__self__ and a.__func__ is b.__func__
