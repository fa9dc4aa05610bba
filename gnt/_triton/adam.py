"""Kernels of AdamGnT's step: Adam with step counts per row and per column, for all parameters in two launches.

    corrections     step size lr / (1 - b1^t) and root sqrt(1 - b2^t) of each parameter, row and column
    adam            the moments and the parameter, in one pass over memory

An element's step count is the smaller one of its row's and its column's, so its step size is the larger one of the two
and its root the smaller one. The equivalent in torch operations is `gnt.optim._adam.per_unit_step`.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, import-not-found, misc"
# ruff: noqa: SIM108 (a conditional expression would be evaluated at run time)

from __future__ import annotations

import triton
import triton.language as tl

FIELDS = 12
# addresses of parameter and moments (4), elements, elements of a row, of a column in a row, columns, rows of one group
# of a convolution, where the parameter's rows and columns begin among the starts (-1: it has none), first block
BLOCK = 1024
OPTIONS = 6  # settings: b1, b2, log b1, log b2, eps, weight decay


@triton.jit
def corrections(
    steps, starts, owners, num_params, num_starts, settings, lr, step_sizes, roots, block: tl.constexpr
):  # fmt: skip
    """Step sizes and roots of all parameters, then of all rows and columns; ``steps`` do not count this step yet."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    mask = at < num_params + num_starts
    is_start = at >= num_params
    owner = tl.load(owners + at, mask=mask, other=0)
    start = tl.load(starts + at - num_params, mask=mask & is_start, other=0)
    count = tl.load(steps + owner, mask=mask, other=1.0).to(tl.float64) + 1.0 - start.to(tl.float64)
    log_beta1 = tl.load(settings + 2)
    log_beta2 = tl.load(settings + 3)
    rate = tl.load(lr).to(tl.float64)
    tl.store(step_sizes + at, rate / (1.0 - tl.exp(count * log_beta1)), mask=mask)
    tl.store(roots + at, tl.sqrt(1.0 - tl.exp(count * log_beta2)), mask=mask)


@triton.jit
def _pointer(address, dtype: tl.constexpr, aligned: tl.constexpr):
    pointer = address.to(tl.pointer_type(dtype))
    if aligned:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _load(pointer, at, mask, scalar: tl.constexpr, masked: tl.constexpr):
    if masked:
        x = tl.load(pointer + at, mask=mask, other=0.0)
    else:
        x = tl.load(pointer + at)
    return x.to(scalar)


@triton.jit
def _store(pointer, at, x, mask, masked: tl.constexpr):
    value = x.to(pointer.dtype.element_ty)
    if masked:
        tl.store(pointer + at, value, mask=mask)
    else:
        tl.store(pointer + at, value)


@triton.jit
def _step_block(
    row, gradient, owner, at, size, settings, lr, step_sizes, roots, num_params,
    dtype: tl.constexpr, scalar: tl.constexpr, aligned: tl.constexpr, amsgrad: tl.constexpr, maximize: tl.constexpr,
    decay: tl.constexpr, decoupled: tl.constexpr, masked: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One step of the elements ``at`` of one parameter."""
    mask = at < size
    row_length = tl.load(row + 5).to(tl.int32)
    inner = tl.load(row + 6).to(tl.int32)
    columns = tl.load(row + 7).to(tl.int32)
    group_rows = tl.load(row + 8).to(tl.int32)
    first_row = tl.load(row + 9)
    first_column = tl.load(row + 10)
    beta1 = tl.load(settings)
    beta2 = tl.load(settings + 1)
    eps = tl.load(settings + 4).to(scalar)
    step_size = tl.zeros((block,), dtype=scalar) + tl.load(step_sizes + owner).to(scalar)
    root = tl.zeros((block,), dtype=scalar) + tl.load(roots + owner).to(scalar)
    number = at // row_length
    if first_row >= 0:
        of_row = num_params + first_row + number
        step_size = tl.maximum(step_size, tl.load(step_sizes + of_row, mask=mask, other=0.0).to(scalar))
        root = tl.minimum(root, tl.load(roots + of_row, mask=mask, other=1.0).to(scalar))
    if first_column >= 0:
        column = (at - number * row_length) // inner + (number // group_rows) * columns
        of_column = num_params + first_column + column
        step_size = tl.maximum(step_size, tl.load(step_sizes + of_column, mask=mask, other=0.0).to(scalar))
        root = tl.minimum(root, tl.load(roots + of_column, mask=mask, other=1.0).to(scalar))
    param_at = _pointer(tl.load(row), dtype, aligned)
    mean_at = _pointer(tl.load(row + 1), dtype, aligned)
    square_at = _pointer(tl.load(row + 2), dtype, aligned)
    param = _load(param_at, at, mask, scalar, masked)
    grad = _load(_pointer(gradient, dtype, aligned), at, mask, scalar, masked)
    mean = _load(mean_at, at, mask, scalar, masked)
    square = _load(square_at, at, mask, scalar, masked)
    if maximize:
        grad = -grad
    if decay:
        weight_decay = tl.load(settings + 5)
        if decoupled:
            param = param * (1.0 - tl.load(lr).to(tl.float64) * weight_decay).to(scalar)
        else:
            grad = grad + param * weight_decay.to(scalar)
    amount = (1.0 - beta1).to(scalar)
    mean = tl.where(amount < 0.5, mean + amount * (grad - mean), grad - (grad - mean) * (1.0 - amount))
    square = square * beta2.to(scalar) + (1.0 - beta2).to(scalar) * grad * grad
    _store(mean_at, at, mean, mask, masked)
    _store(square_at, at, square, mask, masked)
    if amsgrad:
        largest_at = _pointer(tl.load(row + 3), dtype, aligned)
        largest = _load(largest_at, at, mask, scalar, masked)
        square = tl.where(square != square, square, tl.maximum(largest, square))
        _store(largest_at, at, square, mask, masked)
    update = step_size * mean / (tl.sqrt(square) / root + eps)
    _store(param_at, at, param - update, mask, masked)


@triton.jit
def adam(
    rows, gradients, owners, settings, lr, step_sizes, roots, steps, num_params,
    fields: tl.constexpr, dtype: tl.constexpr, scalar: tl.constexpr, aligned: tl.constexpr, amsgrad: tl.constexpr,
    maximize: tl.constexpr, decay: tl.constexpr, decoupled: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One step of one block of elements; the first block of each parameter counts the step. Grid: (blocks,)."""
    program = tl.program_id(0)
    owner = tl.load(owners + program)
    row = rows + owner * fields
    gradient = tl.load(gradients + owner)
    size = tl.load(row + 4).to(tl.int32)
    start = (program - tl.load(row + 11).to(tl.int32)) * block
    at = start + tl.arange(0, block)
    if start + block <= size:
        _step_block(
            row, gradient, owner, at, size, settings, lr, step_sizes, roots, num_params,
            dtype, scalar, aligned, amsgrad, maximize, decay, decoupled, False, block,
        )  # fmt: skip
    else:
        _step_block(
            row, gradient, owner, at, size, settings, lr, step_sizes, roots, num_params,
            dtype, scalar, aligned, amsgrad, maximize, decay, decoupled, True, block,
        )  # fmt: skip
    if start == 0:
        tl.store(steps + owner, tl.load(steps + owner) + 1.0)
