"""Kernels of an engine's update: sums over features and weights, and the measure from them.

Two launches for all groups, after which that of ``running_averages`` follows:

    partial_sums    sum of x and of |x| over the samples of a feature, of |w| over the rows or columns of a weight
    combine         mean feature and measure of each unit, from the partial sums

The sums have a fixed order, so all results are the same in every run. The equivalent in torch operations is
`gnt.importance._evaluate.eager.EagerEvaluation`.

A *task* is a sum over some elements for each of several positions. Element k of position p is at

    address + (k // inner) * outer_stride + k % inner + p * position_stride        (k < size)

which describes the samples of a feature, and rows and columns of a weight, of linear and convolutional layers. Tensors
have the dtype of the state (kind 0), or are bfloat16 (1) or float16 (2).
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, import-not-found, misc"
# ruff: noqa: SIM108 (a conditional expression would be evaluated at run time)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

UNITS, CHUNKS = 64, 16  # that a program of `combine` reads at once
TASK_FIELDS = 10  # address, kind, positions, size, inner, outer_stride, position_stride, chunk, slot, signed
GROUP_FIELDS = 14
# units, positions of a unit, first unit, place of the means, takes part; size, slot and chunks of the feature; slot,
# chunks and size of the outgoing weights, then of the incoming ones

# tile of a task whose positions are adjacent in memory, and of one whose elements are
WIDE_ROWS, WIDE_POSITIONS = 16, 128
LONG_POSITIONS, LONG_ELEMENTS = 8, 256


def scalar_type(dtype: torch.dtype) -> Any:
    """The type of the kernels' arithmetic for a state of this dtype."""
    return tl.float64 if dtype is torch.float64 else tl.float32


def element_type(dtype: torch.dtype) -> Any:
    """The type of the elements of a tensor of this dtype."""
    names = {torch.float64: tl.float64, torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}
    return names.get(dtype, tl.float16)


@triton.jit
def _sum_wide(
    address, positions, first, last, stride, position_block, out, signed, sums, magnitudes,
    dtype: tl.constexpr, scalar: tl.constexpr, rows: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """The sums over elements first to last, ``stride`` apart, of a block of positions that are adjacent in memory."""
    at = position_block * width + tl.arange(0, width)
    row = tl.arange(0, rows)
    offsets = row[:, None] * stride.to(tl.int32) + at[None, :]
    pointer = address.to(tl.pointer_type(dtype)) + first.to(tl.int64) * stride
    total = tl.zeros((rows, width), dtype=scalar)
    magnitude = tl.zeros((rows, width), dtype=scalar)
    for start in range(first, last, rows):
        mask = (row < last - start)[:, None] & (at < positions)[None, :]
        x = tl.load(pointer + offsets, mask=mask, other=0.0).to(scalar)
        total += x
        magnitude += tl.abs(x)
        pointer += rows * stride
    tl.store(magnitudes + out + at, tl.sum(magnitude, 0), mask=at < positions)
    tl.store(sums + out + at, tl.sum(total, 0), mask=(at < positions) & (signed != 0))


@triton.jit
def _sum_long(
    address, positions, first, last, inner, outer_stride, position_stride, position_block, out, signed, sums,
    magnitudes, dtype: tl.constexpr, scalar: tl.constexpr, width: tl.constexpr, length: tl.constexpr,
):  # fmt: skip
    """The sums over elements first to last, some of them adjacent in memory, of a block of positions."""
    at = position_block * width + tl.arange(0, width)
    pointer = address.to(tl.pointer_type(dtype))
    total = tl.zeros((width, length), dtype=scalar)
    magnitude = tl.zeros((width, length), dtype=scalar)
    for start in range(first, last, length):
        k = start + tl.arange(0, length)
        offsets = at[:, None] * position_stride + ((k // inner) * outer_stride + k % inner)[None, :]
        mask = (at < positions)[:, None] & (k < last)[None, :]
        x = tl.load(pointer + offsets, mask=mask, other=0.0).to(scalar)
        total += x
        magnitude += tl.abs(x)
    tl.store(magnitudes + out + at, tl.sum(magnitude, 1), mask=at < positions)
    tl.store(sums + out + at, tl.sum(total, 1), mask=(at < positions) & (signed != 0))


@triton.jit
def _sum_chunk(
    row, address, positions, first, last, position_block, out, sums, magnitudes, is_wide,
    dtype: tl.constexpr, scalar: tl.constexpr, wide_rows: tl.constexpr, wide_positions: tl.constexpr,
    long_positions: tl.constexpr, long_elements: tl.constexpr,
):  # fmt: skip
    """The sums of one task over one chunk of its elements; ``dtype`` is that of its tensor."""
    outer_stride = tl.load(row + 5)
    signed = tl.load(row + 9)
    if is_wide:
        _sum_wide(
            address, positions, first, last, outer_stride, position_block, out, signed, sums, magnitudes,
            dtype, scalar, wide_rows, wide_positions,
        )  # fmt: skip
    else:
        _sum_long(
            address, positions, first, last, tl.load(row + 4).to(tl.int32), outer_stride, tl.load(row + 6),
            position_block, out, signed, sums, magnitudes, dtype, scalar, long_positions, long_elements,
        )  # fmt: skip


@triton.jit
def partial_sums(
    weights,
    features,
    num_weights,
    sums,
    magnitudes,
    scalar: tl.constexpr,
    fields: tl.constexpr,
    wide_rows: tl.constexpr,
    wide_positions: tl.constexpr,
    long_positions: tl.constexpr,
    long_elements: tl.constexpr,
):
    """Sums of one task over one chunk of its elements, for a block of its positions.

    Grid: (at least the number of position blocks * chunks of any task, tasks).
    """
    task = tl.program_id(1)
    program = tl.program_id(0)
    if task < num_weights:
        row = weights + task * fields
    else:
        row = features + (task - num_weights) * fields
    address = tl.load(row)
    kind = tl.load(row + 1)
    positions = tl.load(row + 2).to(tl.int32)
    size = tl.load(row + 3).to(tl.int32)
    chunk = tl.load(row + 7).to(tl.int32)
    is_wide = tl.load(row + 6) == 1  # then each element of a position is in another row
    chunks = (size + chunk - 1) // chunk  # sizes fit into int32, products with strides may not
    width = tl.where(is_wide, wide_positions, long_positions)
    blocks = (positions + width - 1) // width
    if program < blocks * chunks:
        number = program // blocks
        first = number * chunk
        last = tl.minimum(first + chunk, size)
        out = tl.load(row + 8) + number * positions
        block = program % blocks
        if kind == 1:
            _sum_chunk(
                row, address, positions, first, last, block, out, sums, magnitudes, is_wide,
                tl.bfloat16, scalar, wide_rows, wide_positions, long_positions, long_elements,
            )  # fmt: skip
        elif kind == 2:
            _sum_chunk(
                row, address, positions, first, last, block, out, sums, magnitudes, is_wide,
                tl.float16, scalar, wide_rows, wide_positions, long_positions, long_elements,
            )  # fmt: skip
        else:
            _sum_chunk(
                row, address, positions, first, last, block, out, sums, magnitudes, is_wide,
                scalar, scalar, wide_rows, wide_positions, long_positions, long_elements,
            )  # fmt: skip


@triton.jit
def _summed(values, slot, chunks, positions, at, mask, scalar: tl.constexpr, block: tl.constexpr, rows: tl.constexpr):
    """The sums over the chunks of a task; several chunks are read at once, as each read has to be waited for."""
    total = tl.zeros((rows, block), dtype=scalar)
    for start in range(0, chunks, rows):
        number = start + tl.arange(0, rows)
        offsets = slot + number[:, None] * positions + at[None, :]
        total += tl.load(values + offsets, mask=(number < chunks)[:, None] & mask[None, :], other=0.0)
    return tl.sum(total, 0)


@triton.jit
def combine(
    groups,
    sums,
    magnitudes,
    measured,
    num_features,
    smallest: tl.constexpr,
    scalar: tl.constexpr,
    fields: tl.constexpr,
    reads_feature: tl.constexpr,
    reads_outgoing: tl.constexpr,
    reads_incoming: tl.constexpr,
    block: tl.constexpr,
    rows: tl.constexpr,
):
    """Mean feature and measure of a block of units of one group. Grid: (blocks of the largest group, groups)."""
    row = groups + tl.program_id(1) * fields
    units = tl.load(row)
    per_unit = tl.load(row + 1)
    first = tl.load(row + 2)
    mean_at = tl.load(row + 3)
    takes_part = tl.load(row + 4)
    size = tl.load(row + 5)
    feature_slot = tl.load(row + 6)
    feature_chunks = tl.load(row + 7)
    outgoing_slot = tl.load(row + 8)
    outgoing_chunks = tl.load(row + 9)
    outgoing_size = tl.load(row + 10)
    incoming_slot = tl.load(row + 11)
    incoming_chunks = tl.load(row + 12)
    incoming_size = tl.load(row + 13)
    unit = tl.program_id(0) * block + tl.arange(0, block)
    mask = unit < units
    if (takes_part != 0) & (tl.program_id(0) * block < units):
        positions = units * per_unit
        mean = tl.zeros((block,), dtype=scalar)
        value = tl.zeros((block,), dtype=scalar)
        for i in range(per_unit):
            at = unit * per_unit + i
            mean += _summed(sums, feature_slot, feature_chunks, positions, at, mask, scalar, block, rows)
            product = tl.full((block,), 1.0, dtype=scalar)
            if reads_feature:
                total = _summed(magnitudes, feature_slot, feature_chunks, positions, at, mask, scalar, block, rows)
                product *= total / size.to(scalar)
            if reads_outgoing:
                total = _summed(magnitudes, outgoing_slot, outgoing_chunks, positions, at, mask, scalar, block, rows)
                product *= total / outgoing_size.to(scalar)
            value += product
        tl.store(measured + mean_at + unit, mean / (size * per_unit).to(scalar), mask=mask)
        value = value / per_unit.to(scalar)
        if reads_incoming:
            total = _summed(magnitudes, incoming_slot, incoming_chunks, units, unit, mask, scalar, block, rows)
            value = value / tl.maximum(total / incoming_size.to(scalar), smallest)
        tl.store(measured + num_features + first + unit, value, mask=mask)
