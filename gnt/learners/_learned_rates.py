"""Gradient descent with a learned rate for each weight."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt.units import fill_slices


class LearnedRates(Optimizer):
    """Gradient descent with a rate for each weight, which has a gradient of its own::

        rate  <- rate - rate_step * gradient of rate
        theta <- theta - max(rate, 0) * gradient of theta

    The rates are leaves of the graph, in ``state[parameter]["rate"]``. A replaced unit gets the initial rates, and so
    does a parameter whose state was dropped.

    Args:
        params: the parameters.
        lr: the initial rate.
        rate_step: step size of the rates.
        max_norm: the largest norm of all gradients of weights together, and of rates; None: no limit.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, rate_step: float, max_norm: float | None) -> None:
        super().__init__(params, {"lr": lr, "rate_step": rate_step, "max_norm": max_norm})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with new rates."""
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            self.rate(parameter)

    def rate(self, parameter: Tensor) -> Tensor:
        """The rates of a parameter.

        Raises:
            ValueError: it is none of this optimizer's.
        """
        rate: Tensor | None = self.state[parameter].get("rate") if parameter in self.state else None
        if rate is None:
            groups = (group for group in self.param_groups if any(each is parameter for each in group["params"]))
            group = next(groups, None)
            if group is None:
                raise ValueError(
                    "rate must be one of a parameter that the optimizer holds, got a tensor of shape "
                    f"{tuple(parameter.shape)}"
                )
            rate = torch.full_like(parameter, group["lr"], memory_format=torch.preserve_format).detach()
            self.state[parameter]["rate"] = rate.requires_grad_()
        return rate

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update rates, then weights. Parameters without gradient are left alone."""
        self._limit_norms()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            rates = [self.rate(parameter) for parameter in parameters]
            learned = [(rate, rate.grad) for rate in rates if rate.grad is not None]
            if learned:
                changed, gradients = map(list, zip(*learned, strict=True))
                torch._foreach_add_(changed, gradients, alpha=-group["rate_step"])
            if parameters:
                gradients = [parameter.grad for parameter in parameters]
                torch._foreach_addcmul_(parameters, gradients, torch._foreach_clamp_min(rates, 0.0), value=-1.0)

    def _limit_norms(self) -> None:
        """Limit the norm of the gradients of all weights together, and of all rates; a group may have its own limit."""
        if all(group["max_norm"] is None for group in self.param_groups):
            return
        weights = [group["params"] for group in self.param_groups]
        for groups in (weights, [[self.rate(parameter) for parameter in each] for each in weights]):
            norm = nn.utils.get_total_norm([p.grad for each in groups for p in each if p.grad is not None])
            for group, members in zip(self.param_groups, groups, strict=True):
                if group["max_norm"] is not None:
                    nn.utils.clip_grads_with_norm_(members, group["max_norm"], norm)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of weights and rates."""
        super().zero_grad(set_to_none)
        for state in self.state.values():
            state["rate"].grad = None

    @torch.no_grad()
    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        """Set the rates of slices to the initial rate; arguments as for `gnt.replacement.Follower`."""
        for group in self.param_groups:
            if any(each is param for each in group["params"]):
                fill_slices(self.rate(param), dim, index, group["lr"], groups)

    def state_dict(self) -> dict[str, Any]:
        """Copies of the rates, and the settings."""
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        rates = {number: {"rate": self.rate(each).detach().clone()} for number, each in enumerate(own)}
        return {**super().state_dict(), "state": rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`.

        Raises:
            ValueError: of other parameters. Nothing is changed.
        """
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        saved = state_dict.get("state") if isinstance(state_dict, dict) else None
        rates = [each.get("rate") for each in saved.values()] if isinstance(saved, dict) else []
        shapes = [tuple(rate.shape) if isinstance(rate, Tensor) else None for rate in rates]
        wanted = [tuple(parameter.shape) for parameter in own]
        if shapes != wanted:
            raise ValueError(f"state_dict must hold a rate for each weight, of shapes {wanted}, got {shapes}")
        super().load_state_dict(copy.deepcopy(state_dict))
        for state in self.state.values():
            state["rate"] = state["rate"].detach().requires_grad_()
