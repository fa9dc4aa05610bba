"""Kernels of a replacement: which units are due, and all that changes when they are replaced by new ones.

    select_lowest         the units of lowest utility among the eligible ones, one program for each group
    move_contributions    mean contributions into the consumers' biases, and outgoing weights 0
    write_slices          new incoming weights, and initial values of biases, norms, optimizer state and averages

Each is one launch for all groups. Indices of units are one int64 tensor, group by group. The equivalent in torch
operations is `gnt.replacement._unit_replacement`.

A *move* is one consumer. Its weight from unit i to output k consists of ``inner`` elements, the first of which is at
``address + k * output_stride + i * unit_stride``.

A *write* is one tensor. Unit i owns ``outer`` runs of ``width`` elements, which begin at
``address + i * width + o * outer_stride``; a run consists of positions of ``inner`` elements each.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, import-not-found, misc"
# ruff: noqa: SIM102 (a conditional expression would be evaluated at run time, and so would `and`)

from __future__ import annotations

import triton
import triton.language as tl

from gnt._triton.running_averages import age_correction

SELECT_FIELDS = 5  # first unit, number of units, number of the group, units that are due, place of the first of them
MOVE_FIELDS = 14
# address and kind of the weight, outputs, output_stride, unit_stride, inner, distance of these elements, address and
# kind of the bias (address 0: none), place of the first unit, number of units, place of the first mean feature, first
# unit of the group among all, number of the group
WRITE_FIELDS = 10  # address, kind, outer, outer_stride, width, inner, source, value, place of the first unit, units

# kinds of tensors: 0 has the dtype of the state
BFLOAT16, FLOAT16, INT64 = 1, 2, 3
# sources of what is written: the number ``value`` (bits of a float64), the new weights from ``value`` on; into int64
# tensors the number of updates of group ``value``, the argument ``step``, the float64 at the address ``value``
CONSTANT, FRESH, UPDATES, STEP, POINTER = range(5)

SELECT_BLOCK, MOVE_OUTPUTS, MOVE_INNER, WRITE_BLOCK = 1024, 64, 8, 512


@triton.jit
def select_lowest(
    tasks, averages, born, updates, num_features, threshold, chosen,
    every: tl.constexpr, decay: tl.constexpr, log_decay: tl.constexpr, tiny: tl.constexpr, corrected: tl.constexpr,
    largest: tl.constexpr, scalar: tl.constexpr, fields: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Indices of the eligible units of lowest utility, lowest first; of equal ones the first. Grid: (groups,).

    A utility that is not finite counts as the largest number, or as the smallest if it is negative.
    """
    row = tasks + tl.program_id(0) * fields
    first = tl.load(row)
    units = tl.load(row + 1).to(tl.int32)
    now = tl.load(updates + tl.load(row + 2))
    count = tl.load(row + 3).to(tl.int32)
    out = chosen + tl.load(row + 4)
    mature = tl.maximum(now - threshold, 0)  # units born before this update are old enough
    last_value = tl.full((), float("-inf"), dtype=scalar)
    last_unit = tl.full((), -1, dtype=tl.int32)
    for number in range(count):
        lowest = tl.full((), float("inf"), dtype=scalar)
        unit = tl.full((), 0, dtype=tl.int32)
        for start in range(0, units, block):
            at = start + tl.arange(0, block)
            mask = at < units
            birth = tl.load(born + first + at, mask=mask, other=0)
            value = tl.load(averages + num_features + first + at, mask=mask, other=0.0)
            if corrected:
                value = value / age_correction(now // every - birth // every, decay, log_decay, tiny, scalar)
            value = tl.where(value != value, largest, value)
            value = tl.minimum(tl.maximum(value, -largest), largest).to(scalar)
            is_next = (value > last_value) | ((value == last_value) & (at > last_unit))
            value = tl.where(mask & (birth < mature) & is_next, value, float("inf"))
            block_lowest = tl.min(value, 0)
            block_unit = tl.min(tl.where(value == block_lowest, at, 2147483647), 0)
            better = block_lowest < lowest
            unit = tl.where(better, block_unit, unit)
            lowest = tl.where(better, block_lowest, lowest)
        tl.store(out + number, unit.to(tl.int64))
        last_value = lowest
        last_unit = unit


@triton.jit
def _move(
    row, units, averages, born, now, at, dtype: tl.constexpr, transfer: tl.constexpr, every: tl.constexpr,
    decay: tl.constexpr, log_decay: tl.constexpr, tiny: tl.constexpr, scalar: tl.constexpr, outputs: tl.constexpr,
    width: tl.constexpr,
):  # fmt: skip
    """The mean contribution of the units to a block of outputs; their weights become 0."""
    address = tl.load(row)
    num_outputs = tl.load(row + 2).to(tl.int32)
    output_stride = tl.load(row + 3)
    unit_stride = tl.load(row + 4)
    inner = tl.load(row + 5).to(tl.int32)
    inner_stride = tl.load(row + 6)
    first = tl.load(row + 9)
    count = tl.load(row + 10).to(tl.int32)
    mean_at = tl.load(row + 11)
    born_at = tl.load(row + 12)
    total = tl.zeros((outputs,), dtype=scalar)
    nothing = tl.zeros((outputs, width), dtype=dtype)
    for number in range(count):
        unit = tl.load(units + first + number)
        pointer = address.to(tl.pointer_type(dtype)) + unit * unit_stride
        weight = tl.zeros((outputs,), dtype=scalar)
        for start in range(0, inner, width):
            j = start + tl.arange(0, width)
            offsets = at[:, None] * output_stride + j[None, :] * inner_stride
            mask = (at < num_outputs)[:, None] & (j < inner)[None, :]
            if transfer:
                weight += tl.sum(tl.load(pointer + offsets, mask=mask, other=0.0).to(scalar), 1)
            tl.store(pointer + offsets, nothing, mask=mask)
        if transfer:
            age = now // every - tl.load(born + born_at + unit) // every
            mean = tl.load(averages + mean_at + unit) / age_correction(age, decay, log_decay, tiny, scalar)
            total += weight * mean
    return total


@triton.jit
def _add(address, at, mask, amount, dtype: tl.constexpr, scalar: tl.constexpr):
    pointer = address.to(tl.pointer_type(dtype)) + at
    value = tl.load(pointer, mask=mask, other=0.0).to(scalar) + amount.to(dtype).to(scalar)
    tl.store(pointer, value.to(dtype), mask=mask)


@triton.jit
def move_contributions(
    moves, units, averages, born, updates,
    transfer: tl.constexpr, every: tl.constexpr, decay: tl.constexpr, log_decay: tl.constexpr, tiny: tl.constexpr,
    scalar: tl.constexpr, fields: tl.constexpr, outputs: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """Move the mean contribution of units into one consumer's bias, if ``transfer``, and set their weights to 0.

    Grid: (blocks of the largest number of outputs, moves).
    """
    row = moves + tl.program_id(1) * fields
    num_outputs = tl.load(row + 2).to(tl.int32)
    at = tl.program_id(0) * outputs + tl.arange(0, outputs)
    if tl.program_id(0) * outputs < num_outputs:
        kind = tl.load(row + 1)
        now = tl.load(updates + tl.load(row + 13))
        if kind == 1:
            total = _move(
                row, units, averages, born, now, at, tl.bfloat16, transfer, every, decay, log_decay, tiny, scalar,
                outputs, width,
            )  # fmt: skip
        elif kind == 2:
            total = _move(
                row, units, averages, born, now, at, tl.float16, transfer, every, decay, log_decay, tiny, scalar,
                outputs, width,
            )  # fmt: skip
        else:
            total = _move(
                row, units, averages, born, now, at, scalar, transfer, every, decay, log_decay, tiny, scalar,
                outputs, width,
            )  # fmt: skip
        bias = tl.load(row + 7)
        if transfer:
            if bias != 0:
                bias_kind = tl.load(row + 8)
                mask = at < num_outputs
                if bias_kind == 1:
                    _add(bias, at, mask, total, tl.bfloat16, scalar)
                elif bias_kind == 2:
                    _add(bias, at, mask, total, tl.float16, scalar)
                else:
                    _add(bias, at, mask, total, scalar, scalar)


@triton.jit
def _write_floats(
    row, offsets, fresh_at, mask, fresh, source, dtype: tl.constexpr, scalar: tl.constexpr, block: tl.constexpr
):
    pointer = tl.load(row).to(tl.pointer_type(dtype)) + offsets
    if source == 1:
        value = tl.load(fresh + tl.load(row + 7) + fresh_at, mask=mask, other=0.0)
        tl.store(pointer, value.to(dtype), mask=mask)
    else:
        number = tl.load(row + 7).to(tl.float64, bitcast=True).to(scalar)
        tl.store(pointer, (tl.zeros((block,), dtype=scalar) + number).to(dtype), mask=mask)


@triton.jit(do_not_specialize=["step"])
def write_slices(writes, units, fresh, updates, step, scalar: tl.constexpr, fields: tl.constexpr, block: tl.constexpr):
    """Write into the units' part of one tensor. Grid: (blocks of the largest part, writes)."""
    row = writes + tl.program_id(1) * fields
    outer = tl.load(row + 2).to(tl.int32)
    width = tl.load(row + 4).to(tl.int32)
    count = tl.load(row + 9).to(tl.int32)
    size = outer * width
    at = tl.program_id(0) * block + tl.arange(0, block)
    if tl.program_id(0) * block < count * size:
        mask = at < count * size
        kind = tl.load(row + 1)
        inner = tl.load(row + 5).to(tl.int32)
        source = tl.load(row + 6)
        number = at // size
        run = (at - number * size) // width
        within = at - number * size - run * width
        position = within // inner
        unit = tl.load(units + tl.load(row + 8) + number, mask=mask, other=0)
        offsets = unit * width + run.to(tl.int64) * tl.load(row + 3) + within
        fresh_at = ((number * (width // inner) + position) * outer + run) * inner + within - position * inner
        if kind == 3:
            pointer = tl.load(row).to(tl.pointer_type(tl.int64)) + offsets
            value = tl.zeros((block,), dtype=tl.int64)
            if source == 2:
                value += tl.load(updates + tl.load(row + 7))
            elif source == 3:
                value += step.to(tl.int64)
            else:  # not one branch of two that yield the address or what is there: Triton 3.6 then reads address 0
                value += tl.load(tl.load(row + 7).to(tl.pointer_type(tl.float64))).to(tl.int64)
            tl.store(pointer, value, mask=mask)
        elif kind == 1:
            _write_floats(row, offsets, fresh_at, mask, fresh, source, tl.bfloat16, scalar, block)
        elif kind == 2:
            _write_floats(row, offsets, fresh_at, mask, fresh, source, tl.float16, scalar, block)
        else:
            _write_floats(row, offsets, fresh_at, mask, fresh, source, scalar, scalar, block)
