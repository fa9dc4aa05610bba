"""The optimizer of each method: betas, weight decay and what replaces units.

With the setting ``decay`` "adamw", weights are multiplied by 1 - lr * weight_decay as in AdamW: with the paper's values
they shrink by 15% (L2) or 1.6% (ReDo and continual backprop) in the 1.6 million updates of a whole run. With "adam", as
in the published code, weight_decay * w is added to the gradient, which Adam then normalises: a much stronger decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from torch import nn
from torch.optim import Optimizer

from gnt import AdamGnT, ReDo, UnitGroup
from gnt.optim import CBPAdam, CBPAdamW

from ..seeds import stream

STANDARD: Final = (0.9, 0.999)
PROPER: Final = (0.99, 0.99)  # the paper's "proper" Adam: v follows sudden changes of the gradient as fast as m


def make_optimizer(method: str, settings: Any, seed: int, agent: nn.Module, groups: Sequence[UnitGroup]) -> Optimizer:
    """The optimizer of ``agent``'s parameters. Continual backprop's has an engine for the units of ``groups``."""
    options: dict[str, Any] = {"lr": settings.lr, "betas": STANDARD if method == "backprop" else PROPER}
    decoupled = settings.decay == "adamw"
    if settings.affects("weight_decay", method):
        options["weight_decay"] = settings.weight_decay
    if method != "continual_backprop":
        return AdamGnT(agent.parameters(), decoupled_weight_decay=decoupled, **options)
    cls = CBPAdamW if decoupled else CBPAdam
    return cls(
        agent,
        layers=list(groups),
        replacement_rate=settings.replacement_rate,
        maturity_threshold=settings.maturity_threshold,
        decay_rate=settings.decay_rate,
        utility=settings.utility,
        init="lecun",
        generator=stream(seed, "replacements"),
        **options,
    )


def make_redo(method: str, settings: Any, seed: int, groups: Sequence[UnitGroup], optimizer: Optimizer) -> ReDo | None:
    """ReDo on ``groups``, applied after each step of ``optimizer``; None for other methods."""
    if method != "redo":
        return None
    generator = stream(seed, "replacements")
    own = {"tau": settings.dormancy, "period": settings.period, "init": "lecun"}
    redo = ReDo(list(groups), optimizer, **own, generator=generator)

    def replace_dormant(*_: Any) -> None:
        redo.step()

    optimizer.register_step_post_hook(replace_dormant)
    return redo
