"""Step counts that restart per unit: one count per row and one per column of a parameter.

Resetting row r after step s restarts the count of that row, so its count at step t is ``t - s``. Columns are counted in
the same way. The state of a parameter holds these starts; each entry exists only from the first reset on:

    row_start     (rows,) int64      the step after which the count of each row started; 0: never reset
    column_start  (columns,) int64   the same for columns; one per input channel for a grouped convolution

An element was last reset when its row or its column was, whichever is later:

    count[r, c] = min(count of row r, count of column c)

A parameter that is larger than 1 in one dimension from the third on, such as (1, 1, 1, 8), may be reset along it. From
then on each of its elements is a row: ``row_start`` is as long as this dimension, and there is no ``column_start``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

START_KEYS = ("row_start", "column_start")  # by dimension


def zero_starts(param: Tensor) -> dict[str, Tensor]:
    """The starts of a parameter of which no unit was ever reset: zeros for all rows and columns."""
    sizes = list(param.shape)
    single = single_dim(sizes)
    if single is not None:
        sizes[0] = sizes[single]
    keys = zip(START_KEYS, sizes, strict=False)
    return {key: torch.zeros(size, dtype=torch.int64, device=param.device) for key, size in keys}


def single_dim(shape: Sequence[int]) -> int | None:
    """The dimension from the third on that alone is larger than 1; None if there is none, or another one is too."""
    if len(shape) < 3:
        return None
    long = [dim for dim, size in enumerate(shape) if size > 1]
    return long[0] if len(long) == 1 and long[0] > 1 else None


def row_dim(shape: Sequence[int], row_start: Tensor) -> int:
    """The dimension along which the rows of ``row_start`` lie: 0, or the one that `single_dim` returns."""
    single = single_dim(shape)
    return single if single is not None and row_start.numel() == shape[single] else 0


def restart(state: dict[str, Any], shape: Sequence[int], size: int, dim: int, units: Tensor, now: int | Tensor) -> None:
    """Restart the counts of these rows (dim 0), columns (dim 1) or elements after step ``now``.

    Args:
        state: the state of the parameter.
        shape: its shape.
        size: the number of rows, columns or elements.
        dim, units: which of them are restarted.
        now: the current step; a 0-d tensor for counts on a device.
    """
    single = single_dim(shape)
    if dim > 1:
        count_elements(state, shape)
    elif single is not None and START_KEYS[0] in state and row_dim(shape, state[START_KEYS[0]]) == single:
        state[START_KEYS[0]].fill_(now)  # the only row or column has all elements
        return
    key = START_KEYS[dim] if dim < len(START_KEYS) else START_KEYS[0]
    if key not in state or (key == START_KEYS[1] and len(state[key]) != size):  # a grouped convolution's first reset
        state[key] = torch.zeros(size, dtype=torch.int64, device=units.device)
    if isinstance(now, Tensor):  # index_fill_ would wait for the device
        state[key].index_copy_(0, units, now.to(torch.int64).expand(len(units)))
    else:
        state[key].index_fill_(0, units, now)


def count_elements(state: dict[str, Any], shape: Sequence[int]) -> None:
    """Let each element of a parameter with a `single_dim` be a row, if its state has starts of rows or columns."""
    single = single_dim(shape)
    starts = [state[key] for key in START_KEYS if key in state]
    if single is None or not starts or (len(starts) == 1 and row_dim(shape, starts[0]) == single):
        return
    latest = torch.stack([start.expand(shape[single]) for start in starts]).amax(0)
    for key in START_KEYS:
        state.pop(key, None)
    state[START_KEYS[0]] = latest
    if "step" in state:
        state["step"] = state["step"].clone()  # so that a step planned with the former starts is not valid any more
