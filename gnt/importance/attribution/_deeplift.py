"""DeepLIFT with the rescale rule (Shrikumar et al., ICML 2017), at what consumers read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gnt.importance.attribution._evaluation import Evaluation, gradients_of
from gnt.importance.attribution._operations import OperationCheck, differentiate
from gnt.importance.attribution._reads import Read, check_same_shapes
from gnt.units import ModelInputs

_SMALL = 1e-10  # below this difference of inputs the multiplier is the derivative


class _Multiply(torch.autograd.Function):
    """A value whose gradient is multiplied by given numbers; in place, z itself becomes it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Tensor, multiplier: Tensor, inplace: bool) -> Tensor:
        """Return ``value``."""
        ctx.save_for_backward(multiplier)
        if not inplace:
            return value.clone()
        ctx.mark_dirty(z)
        return z.copy_(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of ``z``."""
        (multiplier,) = ctx.saved_tensors
        return gradients[0] * multiplier, None, None, None


class _PoolAsBetween(torch.autograd.Function):
    """The result of a max pooling, whose gradient gives the change of each maximum to the places that make it.

    A change from y0 to y is max(y, y0) - y0 at the place of the maximum now, and y - max(y, y0) at that of the
    baseline; each place has the sum of its parts, divided by its own change.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, function: Any, value: Tensor, z0: Tensor, value0: Tensor) -> Tensor:
        """Return ``value``."""
        ctx.save_for_backward(z, value, z0, value0)
        ctx.function = function
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient of ``z``."""
        z, value, z0, value0 = ctx.saved_tensors
        (gradient,), larger = gradients, torch.maximum(value, value0)
        now = _spread(ctx.function, z, gradient * (larger - value0))
        before = _spread(ctx.function, z0, gradient * (value - larger))
        change = z - z0
        near = change.abs() < _SMALL
        ratio = (now + before) / torch.where(near, torch.ones_like(change), change)
        return torch.where(near, _spread(ctx.function, z, gradient), ratio), None, None, None, None


def _spread(function: Callable[[Tensor], Tensor], z: Tensor, gradient: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        return torch.autograd.grad(function(z), z, gradient)[0]


class _Activations(OperationCheck):
    """Keeps input and output of each activation; with those of a baseline, gradients are multiplied by their ratio.

    Args:
        method: name of the attribution.
        baseline: what was kept in the forward of the baseline.
    """

    def __init__(self, method: str, baseline: list[tuple[Tensor, Tensor]] | None = None) -> None:
        super().__init__(method)
        self.kept: list[tuple[Tensor, Tensor]] = []
        self._baseline = baseline

    def activation(self, name: str, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Any) -> Tensor:
        """The activation of the first argument, with the multiplier (f(z) - f(z0)) / (z - z0) as its derivative."""
        args, kwargs = (args, dict(kwargs)) if args else ((kwargs.pop("input"),), dict(kwargs))
        z, rest = args[0], args[1:]
        named = function.__name__.endswith("_")
        inplace = named or bool(kwargs.get("inplace")) or any(each is True for each in rest)
        before = z.detach().clone()  # a later operation may change it in place
        if self._baseline is None:
            result = function(z, *rest, **kwargs)
            self.kept.append((before, result.detach().clone()))
            return result
        value, slope = differentiate(function, before, rest, kwargs)
        self.kept.append((before, value))
        z0, value0 = self._of_baseline(z)
        change = before - z0
        near = change.abs() < _SMALL
        ratio = (value - value0) / torch.where(near, torch.ones_like(change), change)
        multiplier = torch.where(near, slope, ratio)
        return _Multiply.apply(z, value, multiplier, inplace)  # type: ignore[no-untyped-call,no-any-return]

    def maximum(self, name: str, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Any) -> Tensor:
        """The max pooling of the first argument."""
        args, kwargs = (args, dict(kwargs)) if args else ((kwargs.pop("input"),), dict(kwargs))
        z = args[0]
        pool = functools.partial(_pool, function, args[1:], kwargs)
        value = pool(z)
        self.kept.append((z.detach().clone(), value.detach().clone()))
        if self._baseline is None:
            return value
        z0, value0 = self._of_baseline(z)
        return _PoolAsBetween.apply(z, pool, value.detach(), z0, value0)  # type: ignore[no-untyped-call,no-any-return]

    def _of_baseline(self, z: Tensor) -> tuple[Tensor, Tensor]:
        kept = self._baseline or []
        if len(kept) < len(self.kept) or kept[len(self.kept) - 1][0].shape != z.shape:
            raise self.refuse("a forward that runs other operations for the baseline")
        return kept[len(self.kept) - 1]


def _pool(function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], z: Tensor) -> Tensor:
    return function(z, *args, **kwargs)


def deeplift(of: Evaluation, baseline: ModelInputs, method: str) -> tuple[list[Read], list[Tensor]]:
    """Multiplier * (h - h0) of each read, for one baseline per sample."""
    with _Activations(method) as reference:
        output, before = of.output(baseline)
    reference.check_seen(output)
    with _Activations(method, reference.kept) as rescaled:
        output, reads = of.output(of.x)
    rescaled.check_seen(output)
    multipliers = gradients_of(of.values(output), reads)
    check_same_shapes([read.value for read in before], [read.value for read in reads])
    changes = (read.value.detach() - ref.value.detach() for read, ref in zip(reads, before, strict=True))
    return reads, [multiplier * change for multiplier, change in zip(multipliers, changes, strict=True)]
