"""The loss function and the optimizer that a learner's arguments name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.validation import check_known_settings, finite_number
from gnt.distributed.dtensor import is_dtensor
from gnt.names import LossName
from gnt.optim import AdamGnT

Loss = Callable[[Tensor, Tensor], Tensor]
OptimizerFactories = Mapping[str, Callable[..., Optimizer]]

LOSSES: dict[str, Loss] = {"mse": F.mse_loss, "cross_entropy": F.cross_entropy, "nll": F.cross_entropy}
DEFAULT_STEP_SIZE = 1e-3

OPTIMIZERS: OptimizerFactories = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def _unit_adamw(params: Any, lr: float, weight_decay: float = 1e-2, **options: Any) -> AdamGnT:
    return AdamGnT(params, lr, weight_decay=weight_decay, decoupled_weight_decay=True, **options)


# for networks whose units are replaced
UNIT_OPTIMIZERS: OptimizerFactories = {"sgd": torch.optim.SGD, "adam": AdamGnT, "adamw": _unit_adamw}

# torch's optimizers whose fused implementation steps all parameters in one operation
_FUSED = (torch.optim.Adam, torch.optim.AdamW)

_NOT_OPTIONS = ("params", "lr", "decoupled_weight_decay", "kernels")  # arguments that a learner sets, or does not offer


IGNORED_TARGET = -100  # a class that cross entropy leaves out, as torch's ``ignore_index``


def find_loss(loss: LossName | Loss) -> Loss:
    """The loss function of a name, or the callable itself.

    Raises:
        ValueError: neither a known name nor a callable.
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(
            f"loss must be one of {', '.join(LOSSES)}, or a callable (output, target) -> scalar, got {loss!r}"
        )
    return LOSSES[loss]


def check_mse_shapes(loss: Any, output: Any, y: Any) -> None:
    """Raise ValueError if "mse" would broadcast outputs and targets of different shapes, and compare all with all."""
    if loss is F.mse_loss and isinstance(output, Tensor) and isinstance(y, Tensor) and output.shape != y.shape:
        raise ValueError(
            f"mse compares output and target element by element: output {tuple(output.shape)}, y {tuple(y.shape)}"
        )


def check_needs_no_closure(optimizer: Optimizer) -> None:
    """Raise TypeError for an optimizer whose step must be given a closure, such as LBFGS."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"opt must be an optimizer that steps once for each batch: step of {type(optimizer).__name__} needs a "
            "closure, which evaluates the loss several times; allowed is any optimizer with step()"
        )


def refuse_own_engine(optimizer: Any) -> None:
    """Raise ValueError for an optimizer that has an engine, in a learner that has one, too."""
    if hasattr(optimizer, "gnt"):
        raise ValueError(f"{type(optimizer).__name__} has its own engine: pass it to Backprop")


def find_optimizer(
    net: nn.Module,
    opt: str | Optimizer,
    step_size: float | None,
    options: dict[str, Any],
    factories: OptimizerFactories,
    engine_settings: Sequence[str],
) -> Optimizer:
    """The optimizer of a name, built for the parameters of ``net``, or the instance itself.

    Args:
        net: the network whose parameters are optimized.
        opt: a name among ``factories``, or an optimizer.
        step_size: learning rate of an optimizer given by name; None: 1e-3.
        options: further options of an optimizer given by name.
        factories: the class or function that builds the optimizer of each name.
        engine_settings: settings of the learner's engine, listed in the error for unknown settings.

    Raises:
        ValueError: an unknown name, a step size out of range, or an optimizer without parameters of ``net``.
        TypeError: settings that would not be used, or an optimizer whose step needs a closure.
    """
    if isinstance(opt, Optimizer):
        check_needs_no_closure(opt)
        unused = [*(["step_size"] if step_size is not None else []), *options]
        if unused:
            raise TypeError(
                f"{', '.join(unused)} would be ignored: the optimizer {type(opt).__name__} has its own settings"
            )
        held = {id(p) for group in opt.param_groups for p in group["params"]}
        if not any(id(p) in held for p in net.parameters()):
            raise ValueError(f"the optimizer {type(opt).__name__} holds no parameter of net: nothing would be learned")
        return opt
    if not isinstance(opt, str) or opt not in factories:
        raise ValueError(f"opt must be one of {', '.join(factories)}, or a torch.optim.Optimizer, got {opt!r}")
    if step_size is None:
        step_size = DEFAULT_STEP_SIZE
    step_size = finite_number("step_size", step_size)
    if "lr" in options:
        raise TypeError("lr is called step_size here")
    factory = AdamGnT if factories[opt] is _unit_adamw else factories[opt]
    allowed = [name for name in inspect.signature(factory).parameters if name not in _NOT_OPTIONS]
    check_known_settings(options, opt, allowed, engine_settings)
    params = list(net.parameters())
    if factory in _FUSED and _can_be_fused(params, options):
        options = {**options, "fused": True}
    return factories[opt](params, lr=step_size, **options)


def _can_be_fused(params: Sequence[Tensor], options: Mapping[str, Any]) -> bool:
    """True if the caller has not chosen an implementation, and torch has a fused one for the parameters."""
    if options.get("fused") is not None or options.get("foreach") is not None or options.get("differentiable"):
        return False
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() and not is_dtensor(p) for p in params)
