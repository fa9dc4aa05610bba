"""Rules: what an optimizer does to one parameter, as a pure function of tensors.

Each rule is that optimizer's own formula, in the order of its operations; options that schedules change (the learning
rate, betas, momentum) are tensors, so that no schedule compiles anything anew. Tests hold each rule to the optimizer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from gnt.optim import AdamGnT

State = Mapping[str, Any]
Options = Mapping[str, Any]


class Moved(NamedTuple):
    """A parameter after a step, and its state, in the order of `Rule.kept`.

    ``shared`` are small tensors that many elements read: to be computed once, not once for each element.
    """

    param: Tensor
    kept: list[Tensor]
    shared: list[Tensor]


class Rule:
    """One optimizer's step; ``flags`` are the options that decide which operations there are."""

    numbers: tuple[str, ...] = ("lr", "weight_decay")
    refused: tuple[str, ...] = ("differentiable", "capturable")

    def flags(self, options: Options) -> tuple[Any, ...]:
        """What of the options is built into a graph."""
        raise NotImplementedError

    def values(self, options: Options) -> list[float]:
        """What of the options is read in each step."""
        return [float(options[name]) for name in self.numbers]

    def kept(self, flags: tuple[Any, ...]) -> tuple[str, ...]:
        """The keys of the state that a step changes."""
        raise NotImplementedError

    def step(
        self,
        param: Tensor,
        grad: Tensor,
        kept: Sequence[Tensor],
        starts: Mapping[int, Tensor],
        flags: tuple[Any, ...],
        numbers: Mapping[str, Tensor],
    ) -> Moved:
        """One step. ``starts``: of the units that lie along each dimension, the step after which each one's count
        began.
        """
        raise NotImplementedError


class SgdRule(Rule):
    """torch.optim.SGD, from its second step on."""

    numbers = ("lr", "weight_decay", "momentum", "dampening")

    def flags(self, options: Options) -> tuple[Any, ...]:
        """Whether there is momentum, of which kind, and weight decay."""
        return (
            options["momentum"] != 0,
            bool(options["nesterov"]),
            bool(options["maximize"]),
            options["weight_decay"] != 0,
        )

    def kept(self, flags: tuple[Any, ...]) -> tuple[str, ...]:
        """The momentum, where there is any."""
        return ("momentum_buffer",) if flags[0] else ()

    def step(
        self,
        param: Tensor,
        grad: Tensor,
        kept: Sequence[Tensor],
        starts: Mapping[int, Tensor],
        flags: tuple[Any, ...],
        numbers: Mapping[str, Tensor],
    ) -> Moved:
        """With b the momentum buffer: b <- momentum * b + (1 - dampening) * g; p <- p - lr * b."""
        has_momentum, nesterov, maximize, decays = flags
        n = _in_dtype_of(param, numbers)
        grad = -grad if maximize else grad
        grad = grad + n["weight_decay"] * param if decays else grad
        if has_momentum:
            buffer = n["momentum"] * kept[0] + (1.0 - n["dampening"]) * grad
            kept = [buffer]
            grad = grad + n["momentum"] * buffer if nesterov else buffer
        return Moved(param - n["lr"] * grad, list(kept), [])


class AdamRule(Rule):
    """torch.optim.Adam and AdamW, and AdamGnT."""

    numbers = ("lr", "weight_decay", "eps", "beta2", "1 - beta1", "1 - beta2", "log beta1", "log beta2")

    def __init__(self, *, always_decoupled: bool = False) -> None:
        self._always_decoupled = always_decoupled

    def flags(self, options: Options) -> tuple[Any, ...]:
        """Whether there is amsgrad, and weight decay, of which kind."""
        decoupled = self._always_decoupled or bool(options.get("decoupled_weight_decay"))
        return bool(options["amsgrad"]), bool(options["maximize"]), options["weight_decay"] != 0, decoupled

    def values(self, options: Options) -> list[float]:
        """What of the options is read in each step."""
        beta1, beta2 = map(float, options["betas"])
        logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
        return [*(float(options[name]) for name in ("lr", "weight_decay", "eps")), beta2, 1 - beta1, 1 - beta2, *logs]

    def kept(self, flags: tuple[Any, ...]) -> tuple[str, ...]:
        """Count, moments, and with amsgrad the greatest second moment."""
        return ("step", "exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if flags[0] else []))

    def step(
        self,
        param: Tensor,
        grad: Tensor,
        kept: Sequence[Tensor],
        starts: Mapping[int, Tensor],
        flags: tuple[Any, ...],
        numbers: Mapping[str, Tensor],
    ) -> Moved:
        """As AdamGnT says: each element's corrections are the smaller ones of its row's and its column's."""
        amsgrad, maximize, decays, decoupled = flags
        count = kept[0].to(torch.float64) + 1.0
        n = _in_dtype_of(param, numbers)
        wide = n["lr"].dtype
        moved, grad = param.to(wide), grad.to(wide)
        grad = -grad if maximize else grad
        if decays and decoupled:
            moved = moved * (1.0 - n["lr"] * n["weight_decay"])
        elif decays:
            grad = grad + n["weight_decay"] * moved
        first = torch.lerp(kept[1].to(wide), grad, n["1 - beta1"])
        second = kept[2].to(wide) * n["beta2"] + n["1 - beta2"] * grad * grad
        greatest = torch.maximum(kept[3].to(wide), second) if amsgrad else second

        counts: dict[int | None, Tensor] = {dim: count - start.to(torch.float64) for dim, start in starts.items()}
        counts = counts or {None: count}
        roots = {dim: (-torch.expm1(c * numbers["log beta2"])).sqrt().to(wide) for dim, c in counts.items()}
        sizes = {dim: (-numbers["lr"] / torch.expm1(c * numbers["log beta1"])).to(wide) for dim, c in counts.items()}
        root = _of_elements(torch.minimum, roots, param)
        size = _of_elements(torch.maximum, sizes, param)
        moved = moved - size * first / (greatest.sqrt() / root + n["eps"])
        after = [kept[0] + 1.0, first, second, *([greatest] if amsgrad else [])]
        return Moved(moved, after, [*roots.values(), *sizes.values()])


def _in_dtype_of(param: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    wide = torch.promote_types(param.dtype, torch.float32)
    return {name: value.to(wide) for name, value in numbers.items()}


def _of_elements(pick: Callable[[Tensor, Tensor], Tensor], sides: dict[Any, Tensor], param: Tensor) -> Tensor:
    """The row's or the column's value of each element, as ``pick`` chooses."""
    return functools.reduce(pick, [_along(dim, values, param) for dim, values in sides.items()])


def _along(dim: int | None, values: Tensor, param: Tensor) -> Tensor:
    """One number for each row or column, to be broadcast against the parameter.

    The columns of a grouped convolution's weight are its input channels, of which each group of rows has its own.
    """
    if dim is None:
        return values
    if dim == 1 and len(values) != param.shape[1]:
        groups = len(values) // param.shape[1]
        grid = values.view(groups, 1, param.shape[1]).expand(groups, param.shape[0] // groups, param.shape[1])
        return grid.reshape(param.shape[0], param.shape[1], *(1 for _ in param.shape[2:]))
    return values.view(*(1 for _ in range(dim)), -1, *(1 for _ in param.shape[dim + 1 :]))


RULES: dict[type[Optimizer], Rule] = {
    SGD: SgdRule(),
    Adam: AdamRule(),
    AdamW: AdamRule(always_decoupled=True),
    AdamGnT: AdamRule(),
}


def rule_of(optimizer: Optimizer) -> Rule:
    """The rule of an optimizer.

    Raises:
        TypeError: it has none, or has options or hooks that a graph would leave out.
    """
    kind = type(optimizer).__name__
    rule = RULES.get(type(optimizer))
    if rule is None:
        raise TypeError(
            f"compile=True cannot compile the step of {kind}: known are {', '.join(k.__name__ for k in RULES)}. Use "
            "one of them, or compile=False"
        )
    for options in optimizer.param_groups:
        for name in rule.refused:
            if options.get(name):
                raise TypeError(f"compile=True cannot compile {kind} with {name}=True; leave it out, or compile=False")
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    if any(hooks):
        raise TypeError(
            f"compile=True would not call the step hooks of this {kind} (an attached engine's, for one): remove them, "
            "or compile=False"
        )
    return rule
