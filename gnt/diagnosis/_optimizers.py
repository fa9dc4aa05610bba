"""Fresh optimizers for copies of a network."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

MakeOptimizer = Callable[..., Optimizer] | Optimizer
_NETWORK = ("net", "model", "network", "module")  # names of a first argument that is the network


def fresh_optimizer(make: MakeOptimizer, net: nn.Module, model: nn.Module) -> Optimizer:
    """An optimizer without state for ``net``, a copy of ``model``.

    Args:
        make: a function of the parameters, or of the network if its first argument is named net, model, network or
            module; or an optimizer of ``model``, of which another one with the same settings is made.
        net: the copy.
        model: the network that was copied.

    Raises:
        TypeError: not a function or an optimizer; an optimizer that cannot be rebuilt, or that needs a closure.
        ValueError: it holds no parameter of the network.
    """
    if isinstance(make, Optimizer):
        optimizer: Any = _like(make, net, model)
    elif callable(make):
        first = next(iter(inspect.signature(make).parameters), "")
        try:
            optimizer = make(net if first in _NETWORK else list(net.parameters()))
        except (AttributeError, TypeError) as error:
            if first in _NETWORK:
                raise
            raise TypeError(
                f"make_optimizer was called with a list of parameters and failed: {error}. If it takes the network, "
                f"name its first argument {', '.join(_NETWORK[:-1])} or {_NETWORK[-1]}"
            ) from error
    else:
        raise TypeError(
            "make_optimizer must be a function of the parameters that returns an optimizer, or an optimizer, got "
            f"{type(make).__name__}"
        )
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"make_optimizer must return a torch.optim.Optimizer, got {type(optimizer).__name__}")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(f"make_optimizer: {type(optimizer).__name__} needs a closure, which is not supported")
    own = {id(parameter) for parameter in net.parameters()}
    if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError(
            f"make_optimizer: {type(optimizer).__name__} holds no parameter of the network that it is given"
        )
    return optimizer


def _like(optimizer: Optimizer, net: nn.Module, model: nn.Module) -> Optimizer:
    """An optimizer with the same settings; where a scheduler has changed a learning rate, with the initial one."""
    kind = type(optimizer)
    if hasattr(optimizer, "gnt"):
        raise TypeError(
            f"make_optimizer: {kind.__name__} has an engine; pass a function of the network that builds one"
        )
    inner = getattr(optimizer, "optimizer", None)  # accelerate's wrapper
    if isinstance(inner, Optimizer):
        return _like(inner, net, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    copies = dict(net.named_parameters())
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        own = [copies[names[id(parameter)]] for parameter in group["params"] if id(parameter) in names]
        settings = {key: _copied(value) for key, value in group.items() if key != "params"}
        if "initial_lr" in settings:
            settings["lr"] = settings["initial_lr"]
        if own:
            groups.append({**settings, "params": own})
    if not groups:
        raise ValueError("make_optimizer: the optimizer holds no parameter of the model")
    allowed = inspect.signature(kind).parameters
    try:
        return kind(groups, **{key: _copied(v) for key, v in optimizer.defaults.items() if key in allowed})
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"make_optimizer: no {kind.__name__} could be made like this one ({error}); pass a function of the "
            "parameters that builds one"
        ) from error


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
