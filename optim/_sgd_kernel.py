"""The step of plain SGD as one call of the C kernel ``gnt/_kernels/sgd.c`` for all parameters of a group.

The result equals torch.optim.SGD to the last bit. If the engine needs means of |w|, the kernel computes them in the
same pass over the weights, while they are in the cache.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo.guards import TensorGuards
from torch.autograd.graph import increment_version

from gnt._kernels import SCALARS, PlacedTensors, ReadableGradients, layout_check, load
from gnt.importance import WeightMeans
from gnt.optim._adam.state import Group, is_plain_tensor

_ADDRESS = Tensor.data_ptr
_PLAIN_OPTIONS = itemgetter("momentum", "nesterov", "differentiable", "fused", "foreach", "weight_decay")
_CHUNK_ROWS = 64  # number of rows that the kernel sums together


class SGDKernel:
    """Steps all parameter groups of an optimizer by the kernel, if it supports them. Plans are kept between steps."""

    def __init__(self) -> None:
        self._plans: dict[int, SGDPlan] = {}

    def step(self, groups: Sequence[Group], weight_means: Mapping[int, WeightMeans]) -> bool:
        """Take a step. Returns False, with nothing changed, if some group needs torch's implementation.

        Raises RuntimeError, with nothing changed, for a gradient that does not fit its parameter.

        Args:
            groups: the parameter groups.
            weight_means: where the kernel writes means of |w|, by the parameter's id.
        """
        ready = []
        for i, group in enumerate(groups):
            params = [param for param in group["params"] if param.grad is not None]
            grads: Sequence[Any] = [param.grad for param in params]
            plan = self._plans.get(i)
            if plan is not None and plan.is_repeated(params, grads, group, weight_means):
                ready.append((plan, grads, group))
                continue
            if not _is_plain_sgd(group) or any(grad.layout is not torch.strided for grad in grads):
                return False
            if not params:
                continue
            if plan is None or not plan.is_valid(params, weight_means):
                if not _kernel_can_step(params):
                    return False
                plan = self._plans[i] = SGDPlan(params, weight_means)
            ready.append((plan, plan.readable(grads, group), group))
        for plan, grads, group in ready:
            plan.step(grads, group)
        return True


def _is_plain_sgd(group: Group) -> bool:
    """True if the options of a group need no state and no particular implementation of torch."""
    return not (
        group["momentum"]
        or group["nesterov"]
        or group["differentiable"]
        or group["fused"]
        or group["foreach"]
        or isinstance(group["weight_decay"], Tensor)
    )


def _kernel_can_step(params: Sequence[Tensor]) -> bool:
    """True for contiguous parameters on the CPU that are all float32 or all float64."""
    dtype = params[0].dtype
    return dtype in SCALARS and all(
        is_plain_tensor(param) and param.is_cpu and param.dtype is dtype and param.is_contiguous() for param in params
    )


class SGDPlan:
    """The arguments of the kernel for the parameters of one group.

    Args:
        params: contiguous parameters of one dtype on the CPU.
        weight_means: where the means of |w| of matrices are written, by the parameter's id.
    """

    def __init__(self, params: Sequence[Tensor], weight_means: Mapping[int, WeightMeans]) -> None:
        self._params, self._weight_means = list(params), weight_means
        self._kernel = load("sgd", params[0].dtype)
        self._placed, self._gradients = PlacedTensors(params), ReadableGradients(params)
        self._addresses = [param.data_ptr() for param in params]
        self._layouts: TensorGuards | None = None  # recognizes parameters and gradients of the step before
        self._plain: tuple[Any, ...] = ()  # the options of the step before that decide whether the kernel can step
        all_means = [weight_means.get(id(param)) for param in params]
        fitting = [m if m is not None and m.can_hold(p) else None for p, m in zip(params, all_means, strict=True)]
        self._with_means = [(p, means) for p, means in zip(params, fitting, strict=True) if means is not None]
        fields = [_layout(param, means) for param, means in zip(params, fitting, strict=True)]
        self._layout = array("q", chain.from_iterable(fields))
        self._grad_addresses = array("q", [0] * len(params))
        self._options = array("d", [0.0, 0.0])
        sums = [
            rows // averaged * -(-averaged // _CHUNK_ROWS) * columns
            for _, rows, columns, _, column_means, averaged in fields
            if column_means
        ]
        self._scratch = params[0].new_empty(max(sums, default=0))
        self._arguments = *(
            numbers.buffer_info()[0] for numbers in (self._layout, self._grad_addresses, self._options)
        ), self._scratch.data_ptr(), len(params)  # fmt: skip

    def is_valid(self, params: Sequence[Tensor], weight_means: Mapping[int, WeightMeans]) -> bool:
        """True if the plan was made for these parameters and they have the same addresses and layouts."""
        return (
            weight_means is self._weight_means
            and len(params) == len(self._params)
            and all(planned is param for planned, param in zip(self._params, params, strict=True))
            and self._placed.unchanged()
        )

    def is_repeated(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        group: Group,
        weight_means: Mapping[int, WeightMeans],
    ) -> bool:
        """True if this step is like one that the kernel has taken: the same parameters, layouts and options."""
        return (
            self._layouts is not None
            and weight_means is self._weight_means
            and len(params) == len(self._params)
            and all(map(is_, params, self._params))
            and all(map(is_, _PLAIN_OPTIONS(group), self._plain))
            and self._layouts.check(*params, *grads)
            and [*map(_ADDRESS, params)] == self._addresses
        )

    def readable(self, grads: Sequence[Tensor], group: Group) -> Sequence[Tensor]:
        """The gradients as `step` needs them. Raises RuntimeError for one that does not fit its parameter."""
        read, self._layouts = self._gradients.read(grads), None
        if read is grads:
            self._layouts, self._plain = layout_check([*self._params, *grads]), _PLAIN_OPTIONS(group)
        return read

    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """Take one step on each parameter. The gradients are ``readable``, in the same order."""
        for i, grad in enumerate(grads):
            self._grad_addresses[i] = grad.data_ptr()
        self._options[0], self._options[1] = group["lr"], group["weight_decay"]
        self._kernel(*self._arguments, 4 if group["maximize"] else 0, torch.get_num_threads())
        increment_version(self._params)  # as torch's in-place operations do, so that autograd refuses stale values
        for param, means in self._with_means:
            means.mark_current(param)


def _layout(param: Tensor, means: WeightMeans | None) -> list[int]:
    """The fields of one parameter in the kernel's ``layout`` argument, which ``sgd.c`` describes."""
    if means is None:
        # the row length is arbitrary: chosen so that several threads can share the rows
        size = param.numel()
        rows = next((rows for rows in (4096, 1024, 256) if size % rows == 0 and size >= 64 * rows), 1)
        return [param.data_ptr(), rows, size // rows, 0, 0, rows]
    addresses = (0 if each is None else each.data_ptr() for each in (means.rows, means.columns))
    return [param.data_ptr(), *param.shape, *addresses, param.shape[0] // means.groups]
