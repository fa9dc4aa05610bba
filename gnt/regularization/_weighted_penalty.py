"""Fused value and gradient of the penalty factor * sum A (theta - mu)^2.

The penalty is one node of the autograd graph for any number of parameters and tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gnt._utils.parameters import accumulation_dtype
from gnt.regularization._kernel_calls import add_penalty_gradients, split_for_kernel
from gnt.regularization._pieces import in_pieces

Tensors = Sequence[Tensor]
Note = Callable[[Tensor | None], None]


def weighted_penalty(parameters: Tensors, importance: Tensors, anchors: Tensors, factor: float, note: Note) -> Tensor:
    """Return factor * sum A (theta - mu)^2, differentiable by the parameters.

    ``note`` is called in its backward with the gradient for the value, or in a compiled forward with None.
    """
    if torch.compiler.is_compiling():
        note(None)
        return _compilable(parameters, importance, anchors, factor)
    value: Tensor = _PenaltyFunction.apply(note, factor, importance, anchors, *parameters)  # type: ignore[no-untyped-call]
    return value


@torch.no_grad()
def add_penalty_gradient(
    gradients: Tensors, parameters: Tensors, importance: Tensors, anchors: Tensors, factor: float, scale: Tensor | None
) -> None:
    """Add scale * 2 * factor * A (theta - mu) to the gradients."""
    others: Sequence[Tensors] = [gradients, parameters, importance, anchors]
    if scale is None:
        taken, others = split_for_kernel(*others)
        add_penalty_gradients(taken[0], taken[1], 2.0 * factor, taken[2], taken[3])
    for grads, thetas, weights, mus in in_pieces(*others):
        differences = torch._foreach_mul(weights, torch._foreach_sub(thetas, mus))
        if scale is not None:
            torch._foreach_mul_(differences, scale.to(differences[0].device))
        torch._foreach_add_(grads, differences, alpha=2.0 * factor)


class _PenaltyFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, note: Note, factor: float, importance: Tensors, anchors: Tensors, *parameters: Tensor
    ) -> Tensor:
        ctx.note, ctx.factor, ctx.importance, ctx.anchors = note, factor, importance, anchors
        ctx.save_for_backward(*parameters)
        dtype, device = accumulation_dtype(parameters), parameters[0].device
        sums: list[Tensor] = []
        for thetas, weights, mus in in_pieces(parameters, importance, anchors):
            differences = torch._foreach_sub(thetas, mus)
            terms = torch._foreach_mul(weights, differences)
            torch._foreach_mul_(terms, differences)
            sums += torch._foreach_norm(terms, 1, dtype=dtype)  # no term is negative
        return torch.stack([each.to(device) for each in sums]).sum().mul(factor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.note(gradient)
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[4:]) if needed]
        lists = [[each[i] for i in wanted] for each in (ctx.saved_tensors, ctx.importance, ctx.anchors)]
        results: list[Tensor | None] = [None] * (len(ctx.needs_input_grad) - 4)
        scale = 2.0 * ctx.factor * gradient
        make = _differentiable if torch.is_grad_enabled() else _in_place
        for i, result in zip(wanted, make(lists[0], lists[1], lists[2], scale), strict=True):
            results[i] = result
        return None, None, None, None, *results


def _differentiable(parameters: Tensors, importance: Tensors, anchors: Tensors, scale: Tensor) -> list[Tensor]:
    """Scale * A (theta - mu), of which second gradients can be taken."""
    return [
        ((theta - mu) * weight * scale.to(theta.device)).to(theta.dtype)
        for theta, weight, mu in zip(parameters, importance, anchors, strict=True)
    ]


def _in_place(parameters: Tensors, importance: Tensors, anchors: Tensors, scale: Tensor) -> list[Tensor]:
    """Scale * A (theta - mu), computed in the memory of the results."""
    results = [torch.empty_like(each) for each in parameters]
    for outs, thetas, weights, mus in in_pieces(results, parameters, importance, anchors):
        torch._foreach_copy_(outs, thetas)
        torch._foreach_sub_(outs, mus)
        torch._foreach_mul_(outs, weights)
        torch._foreach_mul_(outs, scale.to(outs[0].device))
    return results


def functional_value(parameters: Tensors, tensors: Tensors, numbers: Sequence[float]) -> tuple[Tensor, Tensors]:
    """The penalty as `FunctionalPenalty.value`: tensors are the importance of each parameter, then the anchors."""
    (factor,), count = numbers, len(parameters)
    return _compilable(parameters, tensors[:count], tensors[count:], factor), ()


def _compilable(parameters: Tensors, importance: Tensors, anchors: Tensors, factor: float) -> Tensor:
    """The penalty from elementary operations, which `torch.compile` fuses."""
    dtype, device = accumulation_dtype(parameters), parameters[0].device
    sums = [
        ((theta - mu).square() * weight).to(dtype).sum().to(device)
        for theta, weight, mu in zip(parameters, importance, anchors, strict=True)
    ]
    return factor * torch.stack(sums).sum()
