"""The part of an optimizer's step that rates 1 / (factor * measure + 1) leave, by one call of a C kernel."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from gnt._kernels import SCALARS, is_readable, load, use_kernels


def move_by_kernel(parts: Sequence[tuple[Tensor, Tensor, Tensor, Tensor | int]], factors: Tensor) -> list[bool]:
    """Move parameters from ``before`` by their share of the step -> for each whether that was done.

    Args:
        parts: parameters, values before the step, measures, and numbers in ``factors``; one that has several factors is
            not moved.
        factors: the factors.
    """
    dtype = factors.dtype
    layouts = [_layout(*part, dtype) for part in parts]
    fit = dtype in SCALARS and factors.is_cpu and factors.is_contiguous() and any(layouts)
    if torch.compiler.is_compiling() or not use_kernels(None, fit=fit):
        return [False] * len(parts)
    chosen = [layout for layout in layouts if layout is not None]
    numbers = array("q", [number for layout in chosen for number in layout])
    kernel = load("slowed_step", dtype)
    kernel(numbers.buffer_info()[0], len(chosen), factors.data_ptr(), torch.get_num_threads())
    increment_version([part[0] for part, layout in zip(parts, layouts, strict=True) if layout is not None])
    return [layout is not None for layout in layouts]


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
