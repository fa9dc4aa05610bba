"""The step of parameters of which no unit was ever reset: torch's own Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from gnt.optim._adam.state import Group, State, counted_together, is_plain, parts_here

_FUSED_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class NeverReset:
    """Parameters that torch's functional Adam steps, with the flags of their group.

    Where the flags leave it open (``foreach`` and ``fused`` are None), it is the fused one wherever that may be: on the
    CPU a single call. torch reads its operands there as they lie in memory, so gradients are brought into the layout of
    their parameter first.
    """

    def __init__(self, params: Sequence[Tensor], states: Sequence[State], group: Group) -> None:
        self._params, self._states = list(params), list(states)
        self._counts = counted_together(states)
        self._steps = [state["step"] for state in states]
        self._moments = [[state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]]
        self._moments.append([state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [])
        self._strides = [param.stride() for param in params]
        self._at = [param.data_ptr() for param in params] if all(is_plain(param) for param in params) else []
        plain_on_cpu = bool(self._at) and all(param.is_cpu for param in params)
        moments = zip(*filter(None, self._moments), strict=True)
        fits = bool(self._at) and all(map(self._fits_fused, params, moments))
        self._on_cpu, self._on_cuda = fits and plain_on_cpu, fits and all(param.is_cuda for param in params)
        self._misread = plain_on_cpu and not fits  # the fused one would take other elements' moments

    @staticmethod
    def _fits_fused(param: Tensor, moments: Sequence[Tensor]) -> bool:
        dense = param.is_contiguous() or param.permute(_by_stride(param)).is_contiguous()
        alike = all(m.stride() == param.stride() and m.dtype == param.dtype for m in moments)
        return dense and alike and param.dtype in _FUSED_DTYPES

    def fits(self) -> bool:
        """Whether the parameters lie where they lay: torch moves them in place, and their layout may change then."""
        return [param.data_ptr() for param in self._params] == self._at if self._at else True

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """One step on each parameter; the gradients in the same order."""
        fused, foreach = group["fused"], group["foreach"]
        if self._on_cpu and (fused or (fused is None and foreach is None)):
            self._step_fused(grads, group)
        else:
            by_default = True if self._on_cuda and foreach is None and fused is None else fused
            self._step_as_torch(grads, group, fused=None if self._misread else by_default)

    def _step_fused(self, grads: Sequence[Tensor], group: Group) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        if isinstance(lr, Tensor):
            lr = lr.squeeze()  # torch 2.6 wants it 0-d
        laid = [
            grad if grad.stride() == strides else torch.empty_like(param).copy_(grad)
            for grad, param, strides in zip(grads, self._params, self._strides, strict=True)
        ]
        self._counts.add_(1.0)
        function: Any = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        function(
            self._params,
            laid,
            *self._moments,
            self._steps,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
        )

    def _step_as_torch(self, grads: Sequence[Tensor], group: Group, fused: bool | None) -> None:
        beta1, beta2 = group["betas"]
        lr = group["lr"].squeeze() if isinstance(group["lr"], Tensor) else group["lr"]
        # of a DTensor its part on this process, which is asked for anew: it may have moved
        here = [parts_here(*each) for each in zip(self._params, grads, self._states, strict=True)]
        params = [param for param, _, _ in here]
        function = adamw if group["decoupled_weight_decay"] else adam
        function(
            params,
            [grad for _, grad, _ in here],
            [state["exp_avg"] for *_, state in here],
            [state["exp_avg_sq"] for *_, state in here],
            [state["max_exp_avg_sq"] for *_, state in here] if group["amsgrad"] else [],
            _on_device(self._counts.tolist(), params) if fused else self._steps,
            foreach=group["foreach"],
            fused=fused,
            amsgrad=group["amsgrad"],
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        if fused:
            self._counts.add_(1.0)


def _by_stride(param: Tensor) -> list[int]:
    """The dimensions of a tensor, those of the longest strides first."""
    strides = param.stride()
    return sorted(range(param.dim()), key=lambda dim: (-strides[dim], dim))


def _on_device(counts: Sequence[float], params: Sequence[Tensor]) -> list[Tensor]:
    """Step counts as the fused kernel reads them: float32, beside the parameters; equal ones in one fill."""
    places: dict[tuple[torch.device, float], list[int]] = {}
    for i, (count, param) in enumerate(zip(counts, params, strict=True)):
        places.setdefault((param.device, count), []).append(i)
    steps = [torch.empty(0)] * len(params)
    for (device, value), where in places.items():
        filled = torch.full((len(where),), value, dtype=torch.float32, device=device)
        for i, step in zip(where, filled.unbind(), strict=True):
            steps[i] = step
    return steps
