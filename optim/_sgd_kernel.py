"""The step of plain SGD as one call of a C++ kernel, ``gnt/kernels/sgd.cpp``, for all parameters of a group.

It equals torch.optim.SGD to the last bit. Where the engine asks for mean weight magnitudes, they are summed on the way:
the weights are in the cache just then, and need not be read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from gnt import _kernels as kernels
from gnt.optim._adam.state import is_plain

if TYPE_CHECKING:
    from gnt.importance import WeightMeans

Group = dict[str, Any]


class CompiledSGD:
    """The step of all groups, if the kernel is for them. What it is told is looked up once and kept between steps."""

    def __init__(self) -> None:
        self._known: dict[int, PlainSGD] = {}

    @torch.no_grad()
    def step(self, groups: Sequence[Group], places: Mapping[int, WeightMeans]) -> bool:
        """Take a step; or return False, and change nothing, where torch's own is needed."""
        ready = []
        for i, group in enumerate(groups):
            params = [param for param in group["params"] if param.grad is not None]
            grads = [param.grad for param in params]
            if not _nothing_but_descent(group) or any(grad.layout is not torch.strided for grad in grads):
                return False
            known = self._known.get(i)
            if params and (known is None or not known.fits(params, places)):
                if not _can_step(params):
                    return False
                self._known[i] = PlainSGD(params, places)
            if params:
                ready.append((self._known[i], grads, group))
        for plain, grads, group in ready:
            plain.step(grads, group)
        return True


def _nothing_but_descent(group: Group) -> bool:
    """Whether a group's options are those of plain SGD: nothing is remembered from step to step."""
    return not (
        group["momentum"]
        or group["nesterov"]
        or group["differentiable"]
        or group["fused"]
        or group["foreach"]
        or isinstance(group["weight_decay"], Tensor)
    )


def _can_step(params: Sequence[Tensor]) -> bool:
    """Whether the kernel is for these parameters: contiguous ones on the CPU, float32 or float64."""
    dtype = params[0].dtype
    return dtype in kernels.SCALARS and all(
        is_plain(param) and param.is_cpu and param.dtype is dtype and param.is_contiguous() for param in params
    )


class PlainSGD:
    """Parameters of one dtype that are stepped together.

    Args:
        params: the parameters, contiguous ones on the CPU.
        places: where the means of |w| go, by the parameter's id; of matrices.
    """

    def __init__(self, params: Sequence[Tensor], places: Mapping[int, WeightMeans]) -> None:
        self.params, self.places = list(params), places
        self._dtype = params[0].dtype
        self._kernel = kernels.load("sgd", self._dtype)
        self._at = [param.data_ptr() for param in params]
        self._wanted = [(param, places[id(param)]) for param in params if id(param) in places]
        self._layout = torch.tensor([_layout(param, places.get(id(param))) for param in params])
        self._grads_at = torch.zeros(len(params), dtype=torch.int64)
        self._addresses = self._grads_at.numpy()
        self._options: tuple[Any, ...] | None = None
        self._numbers = torch.zeros(2, dtype=torch.float64)

    def fits(self, params: Sequence[Tensor], places: Mapping[int, WeightMeans]) -> bool:
        """Whether these are the parameters and places it was made of, and they still lie where they lay."""
        return (
            places is self.places
            and len(params) == len(self.params)
            and all(mine is theirs for mine, theirs in zip(self.params, params, strict=True))
            and [param.data_ptr() for param in params] == self._at
            and all(param.is_contiguous() for param in params)
        )

    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """One step on each parameter; the gradients in the same order."""
        laid = []  # until the kernel has read them
        for i, grad in enumerate(grads):
            if grad.dtype is not self._dtype or not grad.is_contiguous():
                grad = grad.to(self._dtype).contiguous()
                laid.append(grad)
            self._addresses[i] = grad.data_ptr()
        options = (float(group["lr"]), group["weight_decay"])
        if options != self._options:
            self._numbers, self._options = torch.tensor(options, dtype=torch.float64), options
        flags = 4 if group["maximize"] else 0
        self._kernel(self._layout, self._grads_at, self._numbers, len(grads), flags, torch.get_num_threads())
        increment_version(self.params)  # as an operation of torch's would: a backward through old values is refused
        for param, place in self._wanted:
            place.mark_current(param)


def _layout(param: Tensor, place: WeightMeans | None) -> list[int]:
    """One parameter, as the kernel is told: see the top of ``sgd.cpp``."""
    if place is None:
        # rows of any length will do: such that several threads can share them
        size = param.numel()
        rows = next((rows for rows in (4096, 1024, 256) if size % rows == 0 and size >= 64 * rows), 1)
        return [param.data_ptr(), rows, size // rows, 0, 0]
    sums = (0 if means is None else means.data_ptr() for means in (place.rows, place.columns))
    return [param.data_ptr(), *param.shape, *sums]
