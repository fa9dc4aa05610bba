"""Optimizers as pure functions: the step of one parameter, written for a graph.

Each computes its optimizer's formula, in the same order of operations; tests compare the two. Hyperparameters that
schedules change (learning rate, betas, momentum) are tensors, so that no schedule compiles a graph again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from gnt.optim import AdamGnT

ParamGroup = Mapping[str, Any]

_LARGE, _LONG_ROW = 4096, 64  # elements of a parameter, and of its last dimension


@dataclass
class ParameterStep:
    """The inputs of the step of one parameter.

    Attributes:
        param: the parameter's value.
        grad: its gradient.
        state: the tensors of its state, in the order of `FunctionalOptimizer.state_keys`.
        reset_steps: for each dimension along which units lie, the step after which each unit's own step count began.
        flags: the options that decide which operations are in the graph, from `FunctionalOptimizer.flags`.
        hyperparameters: float64 scalars by name, from `FunctionalOptimizer.hyperparameter_values`.
    """

    param: Tensor
    grad: Tensor
    state: list[Tensor]
    reset_steps: Mapping[int, Tensor]
    flags: tuple[Any, ...]
    hyperparameters: Mapping[str, Tensor]

    def in_compute_dtype(self) -> dict[str, Tensor]:
        """The hyperparameters in the parameter's dtype, or in float32 if that is wider."""
        wide = torch.promote_types(self.param.dtype, torch.float32)
        return {name: value.to(wide) for name, value in self.hyperparameters.items()}


class ParameterUpdate(NamedTuple):
    """The result of the step of one parameter.

    Attributes:
        param: the new value.
        state: the new state, in the order of `FunctionalOptimizer.state_keys`.
    """

    param: Tensor
    state: list[Tensor]


class FunctionalOptimizer:
    """The functional form of an optimizer.

    Attributes:
        in_graph: whether the optimizer's step is part of the graph.
    """

    in_graph = True

    hyperparameters: tuple[str, ...] = ("lr", "weight_decay")
    refused: tuple[str, ...] = ("differentiable", "capturable")

    def flags(self, group: ParamGroup) -> tuple[Any, ...]:
        """The options that are built into a graph."""
        raise NotImplementedError

    def hyperparameter_values(self, group: ParamGroup) -> list[float]:
        """The values of ``hyperparameters``, which the graph reads in each step."""
        return [float(group[name]) for name in self.hyperparameters]

    def state_keys(self, flags: tuple[Any, ...]) -> tuple[str, ...]:
        """The keys of the state that a step changes."""
        raise NotImplementedError

    def step(self, at: ParameterStep) -> ParameterUpdate:
        """One step of one parameter."""
        raise NotImplementedError


class StepsAfterGraph(FunctionalOptimizer):
    """Stands for any optimizer that steps after a graph of forward and backward, by its own ``step()``."""

    in_graph = False
    hyperparameters = ()

    def flags(self, group: ParamGroup) -> tuple[Any, ...]:
        """None: the graph reads no options."""
        return ()

    def state_keys(self, flags: tuple[Any, ...]) -> tuple[str, ...]:
        """None: the graph reads no state."""
        return ()


class FunctionalSGD(FunctionalOptimizer):
    """torch.optim.SGD, from its second step on."""

    hyperparameters = ("lr", "weight_decay", "momentum", "dampening")

    def flags(self, group: ParamGroup) -> tuple[Any, ...]:
        """Momentum or not, Nesterov or not, maximize, weight decay or not."""
        return (
            group["momentum"] != 0,
            bool(group["nesterov"]),
            bool(group["maximize"]),
            group["weight_decay"] != 0,
        )

    def state_keys(self, flags: tuple[Any, ...]) -> tuple[str, ...]:
        """The momentum buffer, if there is one."""
        return ("momentum_buffer",) if flags[0] else ()

    def step(self, at: ParameterStep) -> ParameterUpdate:
        """With b the momentum buffer: b <- momentum * b + (1 - dampening) * g; p <- p - lr * b."""
        has_momentum, nesterov, maximize, decays = at.flags
        h, state = at.in_compute_dtype(), at.state
        grad = -at.grad if maximize else at.grad
        grad = grad + h["weight_decay"] * at.param if decays else grad
        if has_momentum:
            buffer = h["momentum"] * state[0] + (1.0 - h["dampening"]) * grad
            state = [buffer]
            grad = grad + h["momentum"] * buffer if nesterov else buffer
        return ParameterUpdate(at.param - h["lr"] * grad, state)


class FunctionalAdam(FunctionalOptimizer):
    """torch.optim.Adam and AdamW, and AdamGnT."""

    hyperparameters = ("lr", "weight_decay", "eps", "beta2", "1 - beta1", "1 - beta2", "log beta1", "log beta2")

    def __init__(self, *, always_decoupled: bool = False) -> None:
        self._always_decoupled = always_decoupled

    def flags(self, group: ParamGroup) -> tuple[Any, ...]:
        """Amsgrad or not, maximize, weight decay or not, decoupled or not."""
        decoupled = self._always_decoupled or bool(group.get("decoupled_weight_decay"))
        return bool(group["amsgrad"]), bool(group["maximize"]), group["weight_decay"] != 0, decoupled

    def hyperparameter_values(self, group: ParamGroup) -> list[float]:
        """The values of ``hyperparameters``, which the graph reads in each step."""
        beta1, beta2 = map(float, group["betas"])
        logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
        return [*(float(group[name]) for name in ("lr", "weight_decay", "eps")), beta2, 1 - beta1, 1 - beta2, *logs]

    def state_keys(self, flags: tuple[Any, ...]) -> tuple[str, ...]:
        """The step count, the two moments and, with amsgrad, the maximum of the second moment."""
        return ("step", "exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if flags[0] else []))

    def step(self, at: ParameterStep) -> ParameterUpdate:
        """The formula of `AdamGnT`; an element's bias corrections are the smaller ones of its row's and column's."""
        amsgrad, maximize, decays, decoupled = at.flags
        count = at.state[0].to(torch.float64) + 1.0
        h, exact = at.in_compute_dtype(), at.hyperparameters
        wide = h["lr"].dtype
        param, grad = at.param.to(wide), at.grad.to(wide)
        grad = -grad if maximize else grad
        if decays and decoupled:
            param = param * (1.0 - h["lr"] * h["weight_decay"])
        elif decays:
            grad = grad + h["weight_decay"] * param
        first = torch.lerp(at.state[1].to(wide), grad, h["1 - beta1"])
        second = at.state[2].to(wide) * h["beta2"] + h["1 - beta2"] * grad * grad
        greatest = torch.maximum(at.state[3].to(wide), second) if amsgrad else second

        counts: dict[int | None, Tensor] = {d: count - step.to(torch.float64) for d, step in at.reset_steps.items()}
        counts = counts or {None: count}
        roots = {dim: (-torch.expm1(c * exact["log beta2"])).sqrt().to(wide) for dim, c in counts.items()}
        sizes = {dim: (-exact["lr"] / torch.expm1(c * exact["log beta1"])).to(wide) for dim, c in counts.items()}
        root = _per_element(torch.minimum, roots, param)
        size = _per_element(torch.maximum, sizes, param)
        if not at.reset_steps:
            root, size = _per_row(root, param), _per_row(size, param)
        param = param - size * first / (greatest.sqrt() / root + h["eps"])
        state = [at.state[0] + 1.0, first, second, *([greatest] if amsgrad else [])]
        return ParameterUpdate(param, state)


def _per_row(scalar: Tensor, param: Tensor) -> Tensor:
    """A scalar as one stored value for each row of a large matrix.

    The gradient of a linear layer over one sample is an outer product, which the compiler computes row by row. A loop
    that reads a scalar instead of the rows' values goes over all elements at once, is not joined with that loop, and
    needs the moments stored in between; the step of an ensemble then takes several times as long.
    """
    if param.ndim < 2 or param.shape[-1] < _LONG_ROW or param.numel() < _LARGE:
        return scalar
    return scalar.expand(*param.shape[:-1], 1).clone()


def _per_element(
    choose: Callable[[Tensor, Tensor], Tensor], by_dim: Mapping[int | None, Tensor], param: Tensor
) -> Tensor:
    """For each element of the parameter the value of its row or of its column, as ``choose`` selects."""
    return functools.reduce(choose, [_broadcastable(dim, values, param) for dim, values in by_dim.items()])


def _broadcastable(dim: int | None, values: Tensor, param: Tensor) -> Tensor:
    """One value for each row or column, in a shape that broadcasts against the parameter.

    The columns of a grouped convolution's weight are its input channels; each group of rows reads its own channels.
    """
    if dim is None:
        return values
    if dim == 1 and len(values) != param.shape[1]:
        groups = len(values) // param.shape[1]
        grid = values.view(groups, 1, param.shape[1]).expand(groups, param.shape[0] // groups, param.shape[1])
        return grid.reshape(param.shape[0], param.shape[1], *(1 for _ in param.shape[2:]))
    return values.view(*(1 for _ in range(dim)), -1, *(1 for _ in param.shape[dim + 1 :]))


FUNCTIONAL_OPTIMIZERS: dict[type[Optimizer], FunctionalOptimizer] = {
    SGD: FunctionalSGD(),
    Adam: FunctionalAdam(),
    AdamW: FunctionalAdam(always_decoupled=True),
    AdamGnT: FunctionalAdam(),
}


STEPS_AFTER_GRAPH = StepsAfterGraph()


def functional_optimizer(optimizer: Optimizer, *, gradients_needed: bool) -> FunctionalOptimizer:
    """The functional form of an optimizer; `STEPS_AFTER_GRAPH` if its step cannot be part of a graph.

    Args:
        optimizer: the optimizer.
        gradients_needed: something reads or changes gradients outside the graph.
    """
    functional = FUNCTIONAL_OPTIMIZERS.get(type(optimizer), STEPS_AFTER_GRAPH)
    left_out = any(group.get(name) for group in optimizer.param_groups for name in functional.refused)
    return STEPS_AFTER_GRAPH if gradients_needed or left_out else functional
