"""Step counts that restart per unit: one number per row and one per column of a parameter.

A reset of row r after step s starts that row's count again, so its count at step t is ``t - s``; columns are
kept in the same way. An element was last reset when its row or its column was, whichever is later, so

    count[r, c] = min(count of row r, count of column c).

What Adam needs are the corrections 1 - b1^count and 1 - b2^count. Both grow with the count, so the correction
of an element is the smaller of its row's and its column's, and no full-size tensor of counts has to be kept.
(The quotient of the two does not grow steadily: the minima come first.)

Kept in the optimizer's state of a parameter, each only from its first reset on:

    row_start     (rows,) int64      the step after which each row's count began; 0: never reset
    column_start  (columns,) int64   the same for columns; a grouped convolution has one per input channel
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gnt.distributed import dtensor

START_KEYS = ("row_start", "column_start")
_SHORTEST_TABLE = 4096

Sides = tuple[Tensor | None, Tensor | None]  # of rows, of columns


@functools.lru_cache(maxsize=16)
def _table(beta: float, power: float, length: int, device: torch.device) -> Tensor:
    """``(1 - beta^k)^power`` for k = 0..length-1, computed on the host as torch.optim.Adam computes it.

    ``torch.pow`` would not do: its last bit depends on where in a tensor an element stands. Looked up in a
    table, the correction depends on the count alone, on every device, and is that of torch.optim.Adam to the
    last bit.
    """
    values = torch.tensor([(1.0 - beta**k) ** power for k in range(length)], dtype=torch.float64)
    if device.type == "mps":  # has no float64
        values = values.float()
    if device.type == "cuda":  # from pinned memory the copy does not wait for the device
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


@functools.lru_cache(maxsize=64)
def _counts_below_one(beta: float) -> int:
    """The number of counts k = 0, 1, ... for which 1 - beta^k is less than 1 in float64."""
    if beta == 0.0:
        return 1
    count = max(1, math.floor(54 * math.log(2.0) / -math.log(beta)) - 1)
    while 1.0 - beta**count < 1.0:
        count += 1
    return count


def tables(betas: tuple[float, float], now: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """``1 - b1^k`` and ``sqrt(1 - b2^k)`` for k = 0..length-1, float64.

    They reach as far as step ``now``, doubling when the counts outgrow them, and end where both have become 1.
    """
    length = min(max(map(_counts_below_one, betas)) + 1, max(_SHORTEST_TABLE, 1 << now.bit_length()))
    return _table(betas[0], 1.0, length, device), _table(betas[1], 0.5, length, device)


def corrections(state: Mapping[str, Any], now: int, beta: float, power: float = 1.0) -> Sides:
    """``(1 - beta^count)^power`` of each row and column: float64, (rows,) and (columns,).

    now: the step being taken, counted from 1; count = now - start. None for a side never reset.
    The table doubles when the counts outgrow it, and ends where 1 - beta^k has become 1.
    """

    def look_up(start: Tensor | None) -> Tensor | None:
        if start is None:
            return None
        count = torch.sub(now, start).clamp_(max=length - 1)
        return _table(beta, power, length, start.device).index_select(0, count)

    length = min(_counts_below_one(beta) + 1, max(_SHORTEST_TABLE, 1 << now.bit_length()))
    return look_up(state.get("row_start")), look_up(state.get("column_start"))


def per_element(pick: Callable[[Tensor, Tensor], Tensor], sides: Sides, shape: torch.Size) -> Tensor:
    """The row's or the column's value of every element, as ``pick`` chooses; broadcasts against ``shape``.

    At least one of the sides is given. With more columns than shape[1] the parameter is the weight of a
    grouped convolution: element (o, c) is in group o // (shape[0] / groups), and reads its channel c.
    """
    row, column = sides
    if column is None:
        assert row is not None
        return row.view(-1, *(1 for _ in shape[1:]))
    grid = column.view(-1, 1, shape[1])
    groups = grid.shape[0]
    if row is not None:
        grid = pick(row.view(groups, -1, 1), grid)
    elif groups > 1:
        grid = grid.expand(groups, shape[0] // groups, shape[1])
    return grid.reshape(-1, shape[1], *(1 for _ in shape[2:]))


def never_reset(param: Tensor) -> dict[str, Tensor]:
    """The counts of a parameter of which no unit was reset: zeros for its rows and columns."""
    keys = zip(START_KEYS, param.shape, strict=False)
    return {key: torch.zeros(size, dtype=torch.int64, device=param.device) for key, size in keys}


def restart(state: dict[str, Any], size: int, dim: int, units: Tensor, now: int) -> None:
    """Let the counts of these rows (dim 0) or columns (dim 1) of ``size`` start again after step ``now``."""
    key = START_KEYS[dim]
    if key not in state:
        state[key] = torch.zeros(size, dtype=torch.int64, device=units.device)
    state[key].index_fill_(0, units, now)


def clear(value: Tensor, dim: int, units: Tensor, groups: int) -> None:
    """Set the slices of these rows (dim 0) or columns (dim 1) to zero, in place."""
    if dim == 0 or groups == 1:
        here, index, _ = dtensor.locate_local(value, dim, units)
        here.index_fill_(dim, index, 0)
        return
    per_group = value.shape[1]
    # (group, its input channel, its output, *kernel): a view, so that the assignment writes into value.
    by_channel = torch.unflatten(value, 0, (groups, -1)).transpose(1, 2)
    by_channel[units // per_group, units % per_group] = 0
