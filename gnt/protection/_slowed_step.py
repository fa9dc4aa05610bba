"""The part of an optimizer's step that rates 1 / (factor * measure + 1) leave, by one call of a C kernel."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from gnt._kernels import SCALARS, PlacedTensors, is_readable, load, use_kernels


class SlowedStep:
    """Moves parameters from ``before`` by their share of the step.

    Args:
        parts: parameters, values before the step, measures, and numbers in the factors; one that has several factors is
            not moved.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor, Tensor, Tensor | int]]) -> None:
        self._parts = parts
        self._placed: PlacedTensors | None = None
        self._dtype: torch.dtype | None = None

    def move(self, factors: Tensor) -> list[bool]:
        """Move those that the kernel can move -> for each whether that was done."""
        dtype = factors.dtype
        known = dtype is self._dtype and self._placed is not None
        if not known or (self._moved and self._placed is not None and not self._placed.unchanged()):
            self._prepare(dtype)
        fit = bool(self._moved) and is_readable(factors, dtype)
        if torch.compiler.is_compiling() or not use_kernels(None, fit=fit):
            return [False] * len(self._parts)
        kernel = load("slowed_step", dtype)
        kernel(self._address, len(self._moved), factors.data_ptr(), torch.get_num_threads())
        increment_version(self._moved)
        return self._done

    def _prepare(self, dtype: torch.dtype) -> None:
        """Find the layout of the parameters that the kernel can move."""
        layouts = [_layout(*part, dtype) if dtype in SCALARS else None for part in self._parts]
        numbers = array("q", [number for layout in layouts if layout is not None for number in layout])
        self._done = [layout is not None for layout in layouts]
        self._moved = [part[0] for part, done in zip(self._parts, self._done, strict=True) if done]
        self._numbers, self._address, self._dtype = numbers, numbers.buffer_info()[0], dtype
        pairs = zip(self._parts, self._done, strict=True)
        self._placed = PlacedTensors([tensor for part, done in pairs if done for tensor in part[:3]])


def _layout(
    value: Tensor, before: Tensor, measure: Tensor, number: Tensor | int, dtype: torch.dtype
) -> list[int] | None:
    """The fields of one parameter in the layout that ``slowed_step.c`` describes; None if the kernel cannot do it."""
    if not isinstance(number, int) or not all(_is_readable(each, dtype) for each in (value, before, measure)):
        return None
    shape, wide = value.shape, measure.shape
    if len(wide) != len(shape) or any(size != 1 for size in wide[2:]):
        return None
    rows, columns = (shape[0], shape[1]) if len(shape) > 1 else (1, value.numel())
    of_rows, of_columns = (wide[0], wide[1]) if len(wide) > 1 else (1, measure.numel())
    inner = shape[2:].numel()
    addresses = [each.data_ptr() for each in (value, before, measure)]
    by_row, by_column = of_columns if of_rows > 1 else 0, int(of_columns > 1)
    return [*addresses, rows, columns, inner, by_row, by_column, number]


def _is_readable(tensor: Tensor, dtype: torch.dtype) -> bool:
    plain = type(tensor) is Tensor or type(tensor) is nn.Parameter
    return plain and is_readable(tensor, dtype)
