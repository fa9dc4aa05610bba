"""Bias corrections of Adam for parameters whose rows and columns have step counts of their own.

For an element with step count t, Adam needs 1 - b1^t and 1 - b2^t. Both grow with t, and the count of an element is the
smaller one of its row and its column, so the correction of an element is the smaller one of its row's and its column's.
No tensor of counts of the parameter's size is needed. (The quotient of the two corrections is not monotone in t, so
each is chosen separately.)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gnt.optim._adam.state import Group, State
from gnt.optim._adam.step_counts import START_KEYS, row_dim
from gnt.optim._options import beta_values

RowColumn = tuple[Tensor | None, Tensor | None]
"""One value per row and one per column of a parameter; None: rows (columns) that were never reset."""

_MIN_TABLE_LENGTH = 4096


@functools.lru_cache(maxsize=16)
def _table(beta: float, power: float, length: int, device: torch.device) -> Tensor:
    """``(1 - beta^k)^power`` for k = 0..length-1, computed on the host as torch.optim.Adam computes it.

    ``torch.pow`` is not an alternative: its last bit depends on the position of an element in the tensor. A table
    lookup depends on the count alone, on every device, and equals the value of torch.optim.Adam to the last bit.
    """
    values = torch.tensor([(1.0 - beta**k) ** power for k in range(length)], dtype=torch.float64, device="cpu")
    if device.type == "mps":  # does not support float64
        values = values.float()
    if device.type == "cuda":  # a copy from pinned memory does not synchronize
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


def correction_table(beta: float, power: float, max_length: int) -> Tensor:
    """``(1 - beta^k)^power`` on the CPU for counts k up to that from which it is 1, or fewer."""
    return _table(beta, power, min(_counts_below_one(beta) + 1, max_length), torch.device("cpu"))


def per_element(choose: Callable[[Tensor, Tensor], Tensor], values: RowColumn, shape: torch.Size) -> Tensor:
    """The value of each element: ``choose(its row's, its column's)``. Broadcasts against ``shape``.

    At least one of the two must be given. With more columns than shape[1], the parameter is the weight of a grouped
    convolution: element (o, c) is in group o // (shape[0] / groups) and reads channel c of that group.
    """
    row, column = values
    if column is None:
        assert row is not None
        return row.view(-1, *(1 for _ in shape[1:]))
    grid = column.view(-1, 1, shape[1])
    groups = grid.shape[0]
    if row is not None:
        grid = choose(row.view(groups, -1, 1), grid)
    elif groups > 1:
        grid = grid.expand(groups, shape[0] // groups, shape[1])
    return grid.reshape(-1, shape[1], *(1 for _ in shape[2:]))


class _Corrections:
    """The corrections ``(1 - beta^k)^power`` for counts, with one decay rate per step.

    They are read from a table from the second step in a row with the same rate on. A table takes as long as many steps,
    which a schedule that changes the rate in each step would pay each time. Without a table, each count that occurs is
    computed once, with the same result; on accelerators, whose counts cannot be read, the table is always made.
    """

    def __init__(self, power: float) -> None:
        self._power = power
        self._beta: float | None = None

    def of(self, counts: Tensor, beta: float, now: int) -> Tensor:
        """The corrections for these counts, float64. ``now``: the largest that can occur."""
        before, self._beta = self._beta, beta
        if counts.is_cpu and beta != before:
            numbers = counts.tolist()
            values = {number: (1.0 - beta**number) ** self._power for number in set(numbers)}
            return torch.tensor([values[number] for number in numbers], dtype=torch.float64, device="cpu")
        length = min(_counts_below_one(beta) + 1, max(_MIN_TABLE_LENGTH, 1 << now.bit_length()))
        if now >= length:
            counts = counts.clamp(max=length - 1)
        return _table(beta, self._power, length, counts.device).index_select(0, counts)


class BiasCorrections:
    """Step sizes lr / (1 - b1^t) and roots sqrt(1 - b2^t) of all rows and columns of several parameters.

    All values are computed together in flat tensors, so small parameters cost few operations. `of` returns views for
    one parameter, ready to broadcast. For half precision parameters the values are float32: in float16, eps would be 0,
    and a reset element without gradient would become 0 / 0 = NaN.

    Args:
        params: parameters of one device and dtype.
        states: their optimizer states, each with at least one of ``START_KEYS``.
    """

    def __init__(self, params: Sequence[Tensor], states: Sequence[State]) -> None:
        parts = [(i, key, state[key]) for i, state in enumerate(states) for key in START_KEYS if key in state]
        self._starts = torch.cat([start for *_, start in parts])
        self._parts = [(i, key, start.numel()) for i, key, start in parts]
        dtype = torch.promote_types(params[0].dtype, torch.float32)
        self._step_sizes, self._roots = (
            torch.empty(self._starts.shape, dtype=dtype, device=self._starts.device) for _ in range(2)
        )
        self._shapes = [param.shape for param in params]
        self._grouped = [
            param.dim() > 1 and "column_start" in state and state["column_start"].numel() != param.shape[1]
            for param, state in zip(params, states, strict=True)
        ]
        self._first, self._second = _Corrections(1.0), _Corrections(0.5)
        self._step_size_views, self._root_views = self._views(self._step_sizes), self._views(self._roots)

    def share_starts(self, states: Sequence[State]) -> None:
        """Make the starts in the states views of the flat tensor, so that later resets are visible here."""
        for (i, key, _), start in zip(self._parts, self._split(self._starts), strict=True):
            states[i][key] = start

    def is_grouped(self, i: int) -> bool:
        """True if the i-th parameter is the weight of a grouped convolution: its rows have different columns."""
        return self._grouped[i]

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        return torch.split(values, [size for *_, size in self._parts])

    def _views(self, values: Tensor) -> list[RowColumn]:
        views: list[dict[str, Tensor]] = [{} for _ in self._shapes]
        for (i, key, _), part in zip(self._parts, self._split(values), strict=True):
            shape = self._shapes[i]
            if not self._grouped[i]:
                along = START_KEYS.index(key) or row_dim(shape, part)
                part = part.view([-1 if dim == along else 1 for dim in range(len(shape))])
            views[i][key] = part
        return [(each.get(START_KEYS[0]), each.get(START_KEYS[1])) for each in views]

    def compute(self, now: Sequence[int], group: Group) -> None:
        """Compute all values. ``now``: the current step of each parameter, counted from 1."""
        if min(now) == max(now):
            counts = torch.sub(now[0], self._starts)
        else:
            counts = torch.empty_like(self._starts)
            for (i, *_), start, count in zip(self._parts, self._split(self._starts), self._split(counts), strict=True):
                torch.sub(now[i], start, out=count)
        beta1, beta2 = beta_values(group)
        bias1, root2 = self._first.of(counts, beta1, max(now)), self._second.of(counts, beta2, max(now))
        # torch computes number / tensor as number * (1 / tensor): divide a tensor by a tensor instead
        lr = group["lr"]
        lr = lr.to(bias1.dtype).reshape(()) if isinstance(lr, Tensor) else scalar_tensor(lr)
        self._step_sizes.copy_(lr / bias1)
        self._roots.copy_(root2)

    def compute_on_device(self, steps: Tensor, group: Group) -> None:
        """`compute` for current steps that are on the device, (parameters,), without reading them."""
        sizes = [size for *_, size in self._parts]
        counts = torch.cat(
            [steps[i] - start for (i, *_), start in zip(self._parts, torch.split(self._starts, sizes), strict=True)]
        ).double()
        beta1, beta2 = beta_values(group)
        first, second = (
            -torch.expm1(counts * math.log(beta)) if beta else torch.ones_like(counts) for beta in (beta1, beta2)
        )
        lr = group["lr"]
        rate = lr.to(first.dtype).reshape(()) if isinstance(lr, Tensor) else torch.full_like(first, float(lr))
        self._step_sizes.copy_(rate / first)
        self._roots.copy_(second.sqrt_())

    def of(self, i: int) -> tuple[RowColumn, RowColumn]:
        """Step sizes and roots of the i-th parameter."""
        step_sizes, roots = self._step_size_views[i], self._root_views[i]
        if self._grouped[i]:
            shape = self._shapes[i]
            return (per_element(torch.maximum, step_sizes, shape), None), (
                per_element(torch.minimum, roots, shape),
                None,
            )
        return step_sizes, roots


@functools.lru_cache(maxsize=64)
def scalar_tensor(value: float) -> Tensor:
    """A number as a float64 tensor, cached: torch's foreach functions would convert a number once per tensor."""
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def larger_step_sizes(values: Sequence[RowColumn]) -> list[Tensor]:
    """The step size of each element: the larger one of its row and column, which has the smaller correction."""
    return [_choose(torch.maximum, *each) for each in values]


def smaller_roots(values: Sequence[RowColumn]) -> list[Tensor]:
    """The root of each element: the smaller one of its row and column."""
    return [_choose(torch.minimum, *each) for each in values]


def _choose(which: Callable[[Tensor, Tensor], Tensor], row: Tensor | None, column: Tensor | None) -> Tensor:
    if row is not None and column is not None:
        return which(row, column)
    only = row if column is None else column
    assert only is not None
    return only
