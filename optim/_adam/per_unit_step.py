"""The step of parameters whose units have step counts of their own, in plain tensor operations.

The corrections of all rows and columns of all parameters are computed together, so that small parameters cost few
operations. Large ones are stepped a block of rows at a time: what is computed on the way then stays in the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gnt.optim._adam.state import Group, State, counted_together, parts_here
from gnt.optim._adam.step_counts import START_KEYS, Sides, per_element, tables

BLOCK = 1 << 19  # elements; a block's operands and what is made of them lie in a core's cache

Lists = Sequence[list[Tensor]]  # parameters, gradients, moments (2 or 3)


class PerUnit:
    """Parameters on one device, of one dtype, that are stepped together."""

    def __init__(self, params: Sequence[Tensor], states: Sequence[State], group: Group) -> None:
        self._params = list(params)
        self._counts = counted_together(states)
        moments = ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else []))
        self._moments = [[state[key] for state in states] for key in moments]
        self._factors = Factors(params, states)
        self._factors.keep(states)
        blocked = [
            param.is_cpu and param.numel() > BLOCK and self._factors.ungrouped(i) for i, param in enumerate(params)
        ]
        self._together = [i for i, apart in enumerate(blocked) if not apart]
        self._apart = [i for i, apart in enumerate(blocked) if apart]

    def fits(self) -> bool:
        """Always: nothing is kept of a parameter but itself."""
        return True

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """One step on each parameter; the gradients in the same order."""
        self._counts.add_(1.0)
        self._factors.compute([int(count) for count in self._counts.tolist()], group)
        lists = [self._params, list(grads), *self._moments]
        if self._together:
            chosen = lists if not self._apart else [[each[i] for i in self._together] for each in lists]
            sizes, roots = zip(*(self._factors.of(i) for i in self._together), strict=True)
            adam_(chosen, sizes, roots, group)
        for i in self._apart:
            self._step_in_blocks([each[i] for each in lists], *self._factors.of(i), group)

    @staticmethod
    def _step_in_blocks(tensors: Sequence[Tensor], size: Sides, root: Sides, group: Group) -> None:
        rows = tensors[0].shape[0]
        block = max(1, BLOCK * rows // tensors[0].numel())
        for at in range(0, rows, block):
            length = min(block, rows - at)

            def part(sides: Sides, at: int = at, length: int = length) -> Sides:
                row, column = sides
                return None if row is None else row.narrow(0, at, length), column

            adam_([[tensor.narrow(0, at, length)] for tensor in tensors], [part(size)], [part(root)], group)


class Factors:
    """What Adam multiplies by: lr / (1 - b1^t) and sqrt(1 - b2^t) of every row and column, t the unit's own count.

    One number per unit, of all parameters in one tensor; `of` gives those of one parameter, ready to broadcast. The
    factors of half precision parameters are float32: in float16 eps would be 0, and the 0 / 0 of a fresh unit without
    gradient would be NaN.
    """

    def __init__(self, params: Sequence[Tensor], states: Sequence[State]) -> None:
        sides = [(i, key, state[key]) for i, state in enumerate(states) for key in START_KEYS if key in state]
        self._starts = torch.cat([start for *_, start in sides])
        self._sides = [(i, key, start.numel()) for i, key, start in sides]
        dtype = torch.promote_types(params[0].dtype, torch.float32)
        self._values = [torch.empty(self._starts.shape, dtype=dtype, device=self._starts.device) for _ in range(2)]
        self._shapes = [param.shape for param in params]
        self._grouped = [
            param.dim() > 1 and "column_start" in state and state["column_start"].numel() != param.shape[1]
            for param, state in zip(params, states, strict=True)
        ]
        self._of = [self._views(values) for values in self._values]

    def keep(self, states: Sequence[State]) -> None:
        """Let the states' own starts be parts of the one tensor, so that resets are seen here."""
        for (i, key, _), start in zip(self._sides, self._split(self._starts), strict=True):
            states[i][key] = start

    def ungrouped(self, i: int) -> bool:
        """Whether a row of the i-th parameter has the same columns as any other."""
        return not self._grouped[i]

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        return torch.split(values, [size for *_, size in self._sides])

    def _views(self, values: Tensor) -> list[Sides]:
        views: list[dict[str, Tensor]] = [{} for _ in self._shapes]
        for (i, key, _), side in zip(self._sides, self._split(values), strict=True):
            shape = self._shapes[i]
            if not self._grouped[i]:
                side = side.view([-1 if dim == START_KEYS.index(key) else 1 for dim in range(len(shape))])
            views[i][key] = side
        return [(each.get("row_start"), each.get("column_start")) for each in views]

    def compute(self, now: Sequence[int], group: Group) -> None:
        """For the steps ``now``, counted from 1, one for each parameter."""
        if min(now) == max(now):
            counts = torch.sub(now[0], self._starts)
        else:
            counts = torch.empty_like(self._starts)
            for (i, *_), start, count in zip(self._sides, self._split(self._starts), self._split(counts), strict=True):
                torch.sub(now[i], start, out=count)
        bias1, root2 = tables(group["betas"], max(now), counts.device)
        counts.clamp_(max=len(bias1) - 1)
        sizes, roots = self._values
        # Of two tensors: a Python number / tensor is computed as its reciprocal times the number.
        lr = group["lr"].to(bias1.dtype) if isinstance(group["lr"], Tensor) else _number(group["lr"])
        sizes.copy_(lr / bias1.index_select(0, counts))
        roots.copy_(root2.index_select(0, counts))

    def of(self, i: int) -> tuple[Sides, Sides]:
        """The step sizes and the roots of the i-th parameter."""
        if self._grouped[i]:
            shape = self._shapes[i]
            sizes, roots = (each[i] for each in self._of)
            return (per_element(torch.maximum, sizes, shape), None), (per_element(torch.minimum, roots, shape), None)
        return self._of[0][i], self._of[1][i]


def adam_(lists: Lists, sizes: Sequence[Sides], roots: Sequence[Sides], group: Group) -> None:
    """Adam on lists of tensors, in place and in torch's order of operations, with factors that broadcast."""
    params, grads, exp_avgs, exp_avg_sqs, *greatest = lists
    wrapped = _number if params[0].is_cpu else float
    (beta1, beta2), lr, weight_decay = group["betas"], group["lr"], group["weight_decay"]
    if group["maximize"]:
        grads = list(torch._foreach_neg(grads))
    if weight_decay != 0:
        if group["decoupled_weight_decay"]:
            keep = 1 - lr * weight_decay
            torch._foreach_mul_(params, keep.squeeze() if isinstance(keep, Tensor) else wrapped(keep))
        else:
            grads = list(torch._foreach_add(grads, params, alpha=weight_decay))
    torch._foreach_lerp_(exp_avgs, grads, 1 - beta1)
    torch._foreach_mul_(exp_avg_sqs, wrapped(beta2))
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)
    if greatest:
        torch._foreach_maximum_(greatest[0], exp_avg_sqs)
        exp_avg_sqs = greatest[0]
    del grads
    # sqrt(v) / sqrt(1 - b2^t) + eps: the lesser correction is the younger one's
    dtype = torch.promote_types(params[0].dtype, torch.float32)
    denominators = torch._foreach_sqrt(exp_avg_sqs if params[0].dtype == dtype else [v.to(dtype) for v in exp_avg_sqs])
    torch._foreach_div_(denominators, list(_pick(torch.minimum, roots)))
    torch._foreach_add_(denominators, wrapped(group["eps"]))
    # m * lr / (1 - b1^t): the lesser of two corrections gives the greater of two step sizes
    updates = list(_pick(torch.maximum, sizes))
    made_here = all(row is not None and column is not None for row, column in sizes)
    if made_here and all(update.shape == param.shape for update, param in zip(updates, params, strict=True)):
        torch._foreach_mul_(updates, exp_avgs)
    else:
        updates = list(torch._foreach_mul(updates, exp_avgs))
    torch._foreach_addcdiv_(params, updates, denominators, -1.0)


@functools.lru_cache(maxsize=64)
def _number(value: float) -> Tensor:
    """A number as a tensor: torch would wrap it for each tensor of a list anew, which takes longer than to use it."""
    return torch.tensor(value, dtype=torch.float64)


def _pick(which: Callable[[Tensor, Tensor], Tensor], factors: Sequence[Sides]) -> Iterator[Tensor]:
    """Of the row's and the column's factor of each element the one that holds; of one side alone just that."""
    for row, column in factors:
        if row is not None and column is not None:
            yield which(row, column)
        else:
            side = row if column is None else column
            assert side is not None
            yield side


class PerUnitSharded:
    """DTensors: each process steps its own part, which is asked for anew at each step, as it may have moved."""

    def __init__(self, params: Sequence[Tensor], states: Sequence[State], group: Group) -> None:
        self._params, self._states = list(params), list(states)
        self._counts = counted_together(states)

    def fits(self) -> bool:
        """Always: nothing is kept of a parameter but itself."""
        return True

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """One step on each parameter; the gradients in the same order."""
        self._counts.add_(1.0)
        for whole, whole_grad, whole_state, now in zip(
            self._params, grads, self._states, self._counts.tolist(), strict=True
        ):
            param, grad, state = parts_here(whole, whole_grad, whole_state)
            factors = Factors([param], [state])
            factors.compute([int(now)], group)
            size, root = factors.of(0)
            moments = [state["exp_avg"], state["exp_avg_sq"], *([state["max_exp_avg_sq"]] if group["amsgrad"] else [])]
            adam_([[each] for each in (param, grad, *moments)], [size], [root], group)
