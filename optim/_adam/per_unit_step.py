"""The step of parameters of which units were reset, in torch operations. Rows and columns have their own counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnt._kernels import layout_check
from gnt.optim._adam.bias_correction import (
    BiasCorrections,
    RowColumn,
    larger_step_sizes,
    scalar_tensor,
    smaller_roots,
)
from gnt.optim._adam.state import (
    Group,
    State,
    is_plain_tensor,
    local_parts,
    moment_lists,
    share_step_counts,
    step_counts_on_device,
)
from gnt.optim._adam.tiny_moments import FLUSH_INTERVAL, flush_subnormal, has_many_zeros, square_roots
from gnt.optim._options import beta_values

# Larger parameters on the CPU are stepped in blocks of rows of about this many elements, so that the operands and
# intermediate results of a block stay in the cache of a core.
BLOCK_SIZE = 1 << 19

TensorLists = Sequence[list[Tensor]]  # parameters, gradients, moments (2, or 3 with amsgrad)


class PerUnitStep:
    """Steps parameters of one device and dtype together. With ``capturable`` the step counts are on their device."""

    def __init__(
        self, params: Sequence[Tensor], states: Sequence[State], group: Group, *, capturable: bool = False
    ) -> None:
        self._capturable = capturable
        self._params = list(params)
        self._layouts = layout_check(self._params) if all(map(is_plain_tensor, params)) else None
        self._counts = step_counts_on_device(states, params[0].device) if capturable else share_step_counts(states)
        self._moments = moment_lists(states, group["amsgrad"])
        self._corrections = BiasCorrections(params, states)
        self._corrections.share_starts(states)
        in_blocks = [
            param.is_cpu and param.numel() > BLOCK_SIZE and not self._corrections.is_grouped(i)
            for i, param in enumerate(params)
        ]
        self._together = [i for i, alone in enumerate(in_blocks) if not alone]
        self._in_blocks = [i for i, alone in enumerate(in_blocks) if alone]
        self._many_zeros = [has_many_zeros(moment) for moment in self._moments[-1]]

    def is_valid(self) -> bool:
        """True if the parameters have the same shapes and dtypes as before."""
        return self._layouts is None or self._layouts.check(*self._params)

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """Take one step on each parameter. The gradients are in the same order."""
        self._counts.add_(1.0)
        now = [] if self._capturable else [int(count) for count in self._counts.tolist()]
        if self._capturable:
            self._corrections.compute_on_device(self._counts, group)
        else:
            self._corrections.compute(now, group)
        lists = [self._params, list(grads), *self._moments]
        if self._together:
            chosen = lists if not self._in_blocks else [[each[i] for i in self._together] for each in lists]
            step_sizes, roots = zip(*(self._corrections.of(i) for i in self._together), strict=True)
            many_zeros = any(self._many_zeros[i] for i in self._together)
            adam_(chosen, step_sizes, roots, group, many_zeros=many_zeros)
        for i in self._in_blocks:
            _step_in_blocks(
                [each[i] for each in lists], *self._corrections.of(i), group, many_zeros=self._many_zeros[i]
            )
        for i, count in enumerate(now):
            if count % FLUSH_INTERVAL == 0:
                moments = [each[i] for each in self._moments]
                flush_subnormal(moments, group["eps"])
                self._many_zeros[i] = has_many_zeros(moments[-1])


class ShardedPerUnitStep:
    """Steps the parts of DTensors on this process, which are looked up in each step because they may have moved."""

    def __init__(self, params: Sequence[Tensor], states: Sequence[State], group: Group) -> None:
        self._params, self._states = list(params), list(states)
        self._counts = share_step_counts(states)

    def is_valid(self) -> bool:
        """Always True: nothing about the local parts is kept between steps."""
        return True

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """Take one step on each parameter. The gradients are in the same order."""
        for each in zip(self._params, grads, self._states, strict=True):
            param, grad, state = local_parts(*each)
            PerUnitStep([param], [state], group).step([grad], group)
        self._counts.add_(1.0)


def _step_in_blocks(
    tensors: Sequence[Tensor], step_size: RowColumn, root: RowColumn, group: Group, *, many_zeros: bool
) -> None:
    """Step one parameter, a block of rows at a time. ``tensors``: parameter, gradient, moments."""
    rows = tensors[0].shape[0]
    block = max(1, BLOCK_SIZE * rows // tensors[0].numel())
    for start in range(0, rows, block):
        length = min(block, rows - start)
        parts = [[tensor.narrow(0, start, length)] for tensor in tensors]
        sizes, roots = [_rows_of(step_size, start, length)], [_rows_of(root, start, length)]
        adam_(parts, sizes, roots, group, many_zeros=many_zeros)


def _rows_of(values: RowColumn, start: int, length: int) -> RowColumn:
    row, column = values
    return None if row is None else row.narrow(0, start, length), column


def adam_(
    lists: TensorLists,
    step_sizes: Sequence[RowColumn],
    roots: Sequence[RowColumn],
    group: Group,
    *,
    many_zeros: bool = False,
) -> None:
    """Adam on lists of tensors, in place, in torch's order of operations.

    Args:
        lists: parameters, gradients and moments.
        step_sizes: lr / (1 - b1^t) of each parameter, as `BiasCorrections.of` returns them.
        roots: sqrt(1 - b2^t) of each parameter.
        group: the options.
        many_zeros: many second moments are zero; the result is the same.
    """
    params, grads, exp_avgs, exp_avg_sqs, *max_exp_avg_sqs = lists
    number = scalar_tensor if params[0].is_cpu else float
    (beta1, beta2), lr, weight_decay = beta_values(group), group["lr"], group["weight_decay"]
    if group["maximize"]:
        grads = list(torch._foreach_neg(grads))
    if weight_decay != 0:
        if group["decoupled_weight_decay"]:
            keep = 1 - lr * weight_decay
            torch._foreach_mul_(params, keep.squeeze() if isinstance(keep, Tensor) else number(keep))
        else:
            grads = list(torch._foreach_add(grads, params, alpha=weight_decay))
    torch._foreach_lerp_(exp_avgs, grads, 1 - beta1)
    torch._foreach_mul_(exp_avg_sqs, number(beta2))
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)
    if max_exp_avg_sqs:
        torch._foreach_maximum_(max_exp_avg_sqs[0], exp_avg_sqs)
        exp_avg_sqs = max_exp_avg_sqs[0]
    del grads
    # sqrt(v) / sqrt(1 - b2^t) + eps
    dtype = torch.promote_types(params[0].dtype, torch.float32)
    squares = exp_avg_sqs if params[0].dtype == dtype else [v.to(dtype) for v in exp_avg_sqs]
    denominators = square_roots(squares, group["eps"], many_zeros=many_zeros)
    del squares
    torch._foreach_div_(denominators, smaller_roots(roots))
    torch._foreach_add_(denominators, number(group["eps"]))
    # m * lr / (1 - b1^t), written into the chosen step sizes where these are new tensors of the parameter's shape
    updates = larger_step_sizes(step_sizes)
    are_new = all(row is not None and column is not None for row, column in step_sizes)
    if are_new and all(update.shape == param.shape for update, param in zip(updates, params, strict=True)):
        torch._foreach_mul_(updates, exp_avgs)
    else:
        updates = list(torch._foreach_mul(updates, exp_avgs))
    torch._foreach_addcdiv_(params, updates, denominators, -1.0)
