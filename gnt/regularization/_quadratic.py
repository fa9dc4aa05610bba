"""Quadratic penalty on the distance of all parameters from target values: the base class of `L2` and `L2Init`.

The penalty is one node of the autograd graph for any number of parameters. Its forward and backward use a few
operations over all parameters at once, and the gradient is exactly 2 * strength * (theta - target).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnt._utils.parameters import ModuleOrParameters, accumulation_dtype, select_parameters
from gnt.distributed.dtensor import is_dtensor
from gnt.regularization._functional_penalty import FunctionalPenalty
from gnt.regularization._strength import WithStrength


class QuadraticPenalty(WithStrength):
    """strength * sum of (theta - target)^2 over all elements of all parameters; base class of `L2` and `L2Init`.

    Attributes:
        strength: may be changed at any time.
        parameters: the regularized parameters.
        names: names of the parameters; their positions if a list was given.
    """

    def __init__(self, params: ModuleOrParameters, strength: float) -> None:
        self.strength = strength
        self.names, self.parameters = select_parameters(params, type(self).__name__)

    def penalty(self) -> Tensor:
        """Return the penalty as a differentiable scalar, in float32 or wider, to be added to the loss.

        With strength 0 both the penalty and its gradient are 0.

        Raises:
            TypeError: parameters that are sharded over processes (FSDP2), for which there is `backward`.
        """
        if torch.compiler.is_compiling():
            return _compilable_penalty(self._strength, self._targets(), self.parameters)
        if any(map(is_dtensor, self.parameters)):
            raise TypeError(
                f"{type(self).__name__}.penalty() takes no parameters that are sharded over processes: call backward() "
                "after the backward pass of the loss"
            )
        value: Tensor = _PenaltyFunction.apply(self._strength, self._targets(), *self.parameters)  # type: ignore[no-untyped-call]
        return value

    def __call__(self) -> Tensor:
        """Return `penalty()`."""
        return self.penalty()

    @torch.no_grad()
    def backward(self) -> None:
        """Add the gradient of the penalty, 2 * strength * (theta - target), to ``.grad`` of each parameter.

        Up to rounding this equals ``penalty().backward()`` after the backward pass of the loss, in half the time,
        because the value of the penalty is not computed. It does not scale the gradient: with a GradScaler, call it
        after ``scaler.unscale_(optimizer)``. Parameters that are frozen now are left out.
        """
        targets = self._targets()
        trainable = [i for i, parameter in enumerate(self.parameters) if parameter.requires_grad]
        if not trainable:
            return
        parameters = tuple(self.parameters[i] for i in trainable)
        differences = _differences(parameters, targets and [targets[i] for i in trainable])
        torch._foreach_add_([_dense_grad(each) for each in parameters], differences, alpha=2.0 * self._strength)

    def functional_penalty(self) -> FunctionalPenalty | None:
        """Hook of learners with ``compile=True``: the penalty of the trained parameters; None if all are frozen."""
        targets = self._targets()
        trainable = [i for i, parameter in enumerate(self.parameters) if parameter.requires_grad]
        if not trainable:
            return None
        parameters = [self.parameters[i] for i in trainable]
        tensors = [] if targets is None else [targets[i] for i in trainable]
        return FunctionalPenalty(_functional_value, parameters, tensors, [self._strength])

    def _targets(self) -> list[Tensor] | None:
        """Return the target of each parameter, in its device and dtype; None if all targets are 0."""
        raise NotImplementedError

    def __repr__(self) -> str:
        elements = sum(p.numel() for p in self.parameters)
        return (
            f"{type(self).__name__}({len(self.parameters)} parameters, {elements} elements, strength={self.strength:g})"
        )


class _PenaltyFunction(torch.autograd.Function):
    """Penalty computed from norms; its backward applies the formula and is differentiable itself."""

    @staticmethod
    def forward(ctx: Any, strength: float, targets: list[Tensor] | None, *parameters: Tensor) -> Tensor:
        ctx.strength, ctx.targets = strength, targets
        ctx.save_for_backward(*parameters)
        dtype, device = accumulation_dtype(parameters), parameters[0].device
        norms = torch._foreach_norm(_differences(parameters, targets), 2, dtype=dtype)
        return torch.stack([norm.to(device) for norm in norms]).square().sum().mul(strength)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        differences = _differences(ctx.saved_tensors, ctx.targets)
        factor = 2.0 * ctx.strength * gradient
        return None, None, *[each * factor.to(each.device, each.dtype) for each in differences]


def _functional_value(
    parameters: Sequence[Tensor], targets: Sequence[Tensor], numbers: Sequence[float]
) -> tuple[Tensor, Sequence[Tensor]]:
    (strength,) = numbers
    return _compilable_penalty(strength, list(targets) or None, list(parameters)), ()


def _compilable_penalty(strength: float, targets: list[Tensor] | None, parameters: list[Tensor]) -> Tensor:
    """Penalty from elementary operations, which `torch.compile` fuses."""
    dtype, device = accumulation_dtype(parameters), parameters[0].device
    squares = [each.to(dtype).square().sum().to(device) for each in _differences(tuple(parameters), targets)]
    return strength * torch.stack(squares).sum()


def _dense_grad(parameter: Tensor) -> Tensor:
    """Return ``.grad`` as a dense tensor that can be added to in place; zeros are stored if it is None."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    elif parameter.grad.layout != torch.strided:
        parameter.grad = parameter.grad.to_dense()
    gradient: Tensor = parameter.grad
    return gradient


def _differences(parameters: tuple[Tensor, ...], targets: list[Tensor] | None) -> tuple[Tensor, ...]:
    return parameters if targets is None else tuple(torch._foreach_sub(parameters, targets))
