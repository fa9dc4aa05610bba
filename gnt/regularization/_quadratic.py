"""Pull: a quadratic penalty on the way of all parameters from where they are pulled to. L2 and L2 Init are its kinds.

It is one node of the graph, however many parameters there are: a few operations over all of them at once, and a
gradient that comes out as the formula says, 2 * strength * (theta - target), bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnt.regularization._parameters import ModuleOrParameters, chosen, number, wide


class Pull:
    """strength * sum of (theta - target)^2 over all elements of all parameters. `L2` and `L2Init` are what to use.

    Attributes:
        strength: may be changed at any time.
        parameters: those that are pulled.
        names: the parameters' names; their numbers, where a list was given.
    """

    def __init__(self, params: ModuleOrParameters, strength: float) -> None:
        self._strength = number("strength", strength)
        self.names, self.parameters = chosen(params, type(self).__name__)

    @property
    def strength(self) -> float:
        """What the squared distance is multiplied with."""
        return self._strength

    @strength.setter
    def strength(self, strength: float) -> None:
        self._strength = number("strength", strength)

    def penalty(self) -> Tensor:
        """The penalty as a differentiable scalar, in float32 or wider, to be added to the loss.

        With strength 0 it is 0 and has a gradient of 0.
        """
        if torch.compiler.is_compiling():
            return _written_out(self._strength, self._targets(), self.parameters)
        value: Tensor = _Penalty.apply(self._strength, self._targets(), *self.parameters)  # type: ignore[no-untyped-call]
        return value

    def __call__(self) -> Tensor:
        """`penalty`."""
        return self.penalty()

    @torch.no_grad()
    def backward(self) -> None:
        """Add the penalty's gradient, 2 * strength * (theta - target), to what the parameters' ``.grad`` hold.

        The same as ``penalty().backward()`` after the loss's own backward, up to rounding, in half the time: the value
        of the penalty is not computed. It knows no scale of losses: with a GradScaler call it after
        ``scaler.unscale_(optimizer)``.
        """
        targets = self._targets()
        pulled = [i for i, parameter in enumerate(self.parameters) if parameter.requires_grad]  # not what is frozen now
        if not pulled:
            return
        parameters = tuple(self.parameters[i] for i in pulled)
        distances = _distances(parameters, targets and [targets[i] for i in pulled])
        torch._foreach_add_([_gradient(each) for each in parameters], distances, alpha=2.0 * self._strength)

    def _targets(self) -> list[Tensor] | None:
        """Where each parameter is pulled to, on its device and in its dtype; None: to 0."""
        raise NotImplementedError

    def __repr__(self) -> str:
        elements = sum(p.numel() for p in self.parameters)
        return (
            f"{type(self).__name__}({len(self.parameters)} parameters, {elements} elements, strength={self.strength:g})"
        )


class _Penalty(torch.autograd.Function):
    """Forward by norms, backward by the formula; the backward is differentiable itself."""

    @staticmethod
    def forward(ctx: Any, strength: float, targets: list[Tensor] | None, *parameters: Tensor) -> Tensor:
        ctx.strength, ctx.targets = strength, targets
        ctx.save_for_backward(*parameters)
        dtype, device = wide(parameters), parameters[0].device
        norms = torch._foreach_norm(_distances(parameters, targets), 2, dtype=dtype)
        return torch.stack([norm.to(device) for norm in norms]).square().sum().mul(strength)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        distances = _distances(ctx.saved_tensors, ctx.targets)
        factor = 2.0 * ctx.strength * gradient
        return None, None, *[distance * factor.to(distance.device, distance.dtype) for distance in distances]


def _written_out(strength: float, targets: list[Tensor] | None, parameters: list[Tensor]) -> Tensor:
    """The formula as it is: a compiler makes few operations of it by itself."""
    dtype, device = wide(parameters), parameters[0].device
    squares = [distance.to(dtype).square().sum().to(device) for distance in _distances(tuple(parameters), targets)]
    return strength * torch.stack(squares).sum()


def _gradient(parameter: Tensor) -> Tensor:
    """What ``.grad`` holds, to be added to in place: 0 where it holds nothing yet, and dense, as all of it will be."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    elif parameter.grad.layout != torch.strided:
        parameter.grad = parameter.grad.to_dense()
    gradient: Tensor = parameter.grad
    return gradient


def _distances(parameters: tuple[Tensor, ...], targets: list[Tensor] | None) -> tuple[Tensor, ...]:
    return parameters if targets is None else tuple(torch._foreach_sub(parameters, targets))
