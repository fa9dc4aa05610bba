"""What a learner may be given for its loss and its optimizer: names, instances, and the settings that go with them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.validation import check_known_settings
from gnt.optim import AdamGnT

Loss = Callable[[Tensor, Tensor], Tensor]
Makers = Mapping[str, Callable[..., Optimizer]]

LOSSES: dict[str, Loss] = {"mse": F.mse_loss, "cross_entropy": F.cross_entropy, "nll": F.cross_entropy}
DEFAULT_STEP_SIZE = 1e-3

OPTIMIZERS: Makers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def _unit_adamw(params: Any, lr: float, weight_decay: float = 1e-2, **options: Any) -> AdamGnT:
    return AdamGnT(params, lr, weight_decay=weight_decay, decoupled_weight_decay=True, **options)


UNIT_OPTIMIZERS: Makers = {"sgd": torch.optim.SGD, "adam": AdamGnT, "adamw": _unit_adamw}


def find_loss(loss: str | Loss) -> Loss:
    """A loss by its name, or the callable itself; ValueError lists the names."""
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(
            f"loss must be one of {', '.join(LOSSES)}, or a callable (output, target) -> scalar, got {loss!r}"
        )
    return LOSSES[loss]


def find_optimizer(
    net: nn.Module,
    opt: str | Optimizer,
    step_size: float | None,
    options: dict[str, Any],
    makers: Makers,
    engine_settings: Sequence[str],
) -> Optimizer:
    """An optimizer made by its name, or the instance itself; what nothing would use is refused.

    Args:
        net: whose parameters it shall hold.
        opt: a name among ``makers``, or an optimizer.
        step_size: learning rate, for a name; None: 1e-3.
        options: further settings, for a name.
        makers: name -> what makes the optimizer.
        engine_settings: what the learner takes for its engine, for the message that lists what is allowed.
    """
    if isinstance(opt, Optimizer):
        given = [*(["step_size"] if step_size is not None else []), *options]
        if given:
            raise TypeError(
                f"{', '.join(given)} would be ignored: the optimizer {type(opt).__name__} has its own settings"
            )
        held = {id(p) for options in opt.param_groups for p in options["params"]}
        if not any(id(p) in held for p in net.parameters()):
            raise ValueError(f"the optimizer {type(opt).__name__} holds no parameter of net: nothing would be learned")
        return opt
    if not isinstance(opt, str) or opt not in makers:
        raise ValueError(f"opt must be one of {', '.join(makers)}, or a torch.optim.Optimizer, got {opt!r}")
    if step_size is None:
        step_size = DEFAULT_STEP_SIZE
    if not isinstance(step_size, (int, float)) or not math.isfinite(step_size) or step_size < 0:
        raise ValueError(f"step_size must be a number >= 0, got {step_size!r}")
    if "lr" in options:
        raise TypeError("lr is called step_size here")
    made_by = AdamGnT if makers[opt] is _unit_adamw else makers[opt]
    hidden = ("params", "lr", "decoupled_weight_decay", "kernels")
    allowed = [name for name in inspect.signature(made_by).parameters if name not in hidden]
    check_known_settings(options, opt, allowed, engine_settings)
    return makers[opt](net.parameters(), lr=step_size, **options)
