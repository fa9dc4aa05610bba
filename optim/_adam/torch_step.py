"""The step of parameters of which no unit was ever reset: torch's own functional Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from gnt._kernels import PlacedTensors
from gnt.optim._adam.state import Group, State, is_plain_tensor, local_parts, moment_lists, share_step_counts
from gnt.optim._options import beta_values

_FUSED_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class TorchStep:
    """Steps parameters by torch's functional Adam, with the flags of their group.

    If neither ``foreach`` nor ``fused`` is set, the fused implementation is used wherever it is available; on the CPU
    that is a single call. It reads all operands in memory order, so gradients are copied to the memory layout of their
    parameter first.
    """

    def __init__(self, params: Sequence[Tensor], states: Sequence[State], group: Group) -> None:
        self._params, self._states = list(params), list(states)
        self._counts = share_step_counts(states)
        self._steps = [state["step"] for state in states]
        self._moments = moment_lists(states, group["amsgrad"])
        all_plain = all(is_plain_tensor(param) for param in params)
        self._strides = [param.stride() for param in params]
        self._placed = PlacedTensors(params) if all_plain else None
        fits_fused = all_plain and all(map(_fits_fused, params, zip(*self._moments, strict=True)))
        plain_on_cpu = all_plain and all(param.is_cpu for param in params)
        self._fused_on_cpu = fits_fused and plain_on_cpu
        self._fused_on_cuda = fits_fused and all(param.is_cuda for param in params)
        # the fused implementation would combine each element with the moments of another one
        self._forbid_fused = plain_on_cpu and not fits_fused
        if not group["amsgrad"]:
            self._moments.append([])

    def is_valid(self) -> bool:
        """True if the parameters are still at the same addresses: a moved parameter may have another layout."""
        return self._placed is None or self._placed.unchanged()

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """Take one step on each parameter. The gradients are in the same order."""
        fused, foreach = group["fused"], group["foreach"]
        lr, (beta1, beta2) = group["lr"], beta_values(group)
        options: dict[str, Any] = {
            "lr": _without_dimensions(lr),
            "beta1": beta1,
            "beta2": beta2,
            "weight_decay": group["weight_decay"],
            "eps": group["eps"],
            "amsgrad": group["amsgrad"],
            "maximize": group["maximize"],
        }
        if self._fused_on_cpu and (fused or (fused is None and foreach is None)):
            self._step_fused(grads, options, decoupled=group["decoupled_weight_decay"])
        else:
            if foreach is None and fused is None and self._fused_on_cuda:
                # as a tensor on the GPU, the fused implementation takes a step size in float32 only
                fused = not (isinstance(lr, Tensor) and lr.is_cuda and lr.dtype is not torch.float32) or None
            if fused and self._fused_on_cuda:
                grads = self._aligned(grads)
            self._step_functional(grads, group, options, fused=None if self._forbid_fused else fused)

    def _step_fused(self, grads: Sequence[Tensor], options: dict[str, Any], *, decoupled: bool) -> None:
        self._counts.add_(1.0)
        function: Any = torch._fused_adamw_ if decoupled else torch._fused_adam_
        function(self._params, self._aligned(grads), *self._moments, self._steps, **options)

    def _aligned(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The gradients in the memory layout of their parameter."""
        return [
            grad if grad.stride() == strides else torch.empty_like(param).copy_(grad)
            for grad, param, strides in zip(grads, self._params, self._strides, strict=True)
        ]

    def _step_functional(
        self, grads: Sequence[Tensor], group: Group, options: dict[str, Any], *, fused: bool | None
    ) -> None:
        # the local parts of DTensors are looked up in each step because they may have moved
        parts = [local_parts(*each) for each in zip(self._params, grads, self._states, strict=True)]
        params = [param for param, *_ in parts]
        moments = moment_lists([state for *_, state in parts], group["amsgrad"])
        function: Any = adamw if group["decoupled_weight_decay"] else adam
        by_loop = not group["foreach"] and (group["foreach"] is False or group["fused"] is False)
        if by_loop and not fused:  # torch computes with tensors as they are
            options["beta1"], options["beta2"] = map(_without_dimensions, group["betas"])
        function(
            params,
            [grad for _, grad, _ in parts],
            *(moments if group["amsgrad"] else [*moments, []]),
            _counts_on_devices(self._counts.tolist(), params) if fused else self._steps,
            foreach=group["foreach"],
            fused=fused,
            **options,
        )
        if fused:
            self._counts.add_(1.0)


def _without_dimensions(value: Any) -> Any:
    """An option as torch 2.6 takes it: a number or a 0-d tensor."""
    return value.squeeze() if isinstance(value, Tensor) else value


def _fits_fused(param: Tensor, moments: Sequence[Tensor]) -> bool:
    """True if parameter and moments have the same dense memory layout, and a dtype of the fused implementation."""
    dense = param.is_contiguous() or param.permute(_dims_by_stride(param)).is_contiguous()
    same_layout = all(m.stride() == param.stride() and m.dtype == param.dtype for m in moments)
    return dense and same_layout and param.dtype in _FUSED_DTYPES


def _dims_by_stride(param: Tensor) -> list[int]:
    """The dimensions of a tensor, longest stride first."""
    strides = param.stride()
    return sorted(range(param.dim()), key=lambda dim: (-strides[dim], dim))


def _counts_on_devices(counts: Sequence[float], params: Sequence[Tensor]) -> list[Tensor]:
    """Step counts for the fused implementation: float32, on the parameters' devices; equal counts share one fill."""
    by_value: dict[tuple[torch.device, float], list[int]] = {}
    for i, (count, param) in enumerate(zip(counts, params, strict=True)):
        by_value.setdefault((param.device, count), []).append(i)
    steps = [torch.empty(0, device="cpu")] * len(params)
    for (device, value), numbers in by_value.items():
        filled = torch.full((len(numbers),), value, dtype=torch.float32, device=device)
        for i, step in zip(numbers, filled.unbind(), strict=True):
            steps[i] = step
    return steps
