"""The optimizer of each method: betas, weight decay, and for continual backprop the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import nn
from torch.optim import Optimizer

from benchmarks.seeds import stream
from gnt import AdamGnT, UnitGroup
from gnt.optim import CBPAdam, CBPAdamW

STANDARD: Final = (0.9, 0.999)
PROPER: Final = (0.99, 0.99)  # the paper's "proper" Adam: a gradient that grows at once moves v at once, too


@dataclass(frozen=True)
class Recipe:
    """What a method's optimizer is made of."""

    betas: tuple[float, float]
    weight_decay: float
    replaces: bool = False


RECIPES: Final = {
    "backprop": Recipe(STANDARD, 0.0),
    "proper_adam": Recipe(PROPER, 0.0),
    "l2": Recipe(PROPER, 1e-3),
    "continual_backprop": Recipe(PROPER, 1e-4, replaces=True),
}


def make(method: str, settings: Any, seed: int, agent: nn.Module, groups: Sequence[UnitGroup]) -> Optimizer:
    """The optimizer of ``agent``'s parameters; units of ``groups`` are replaced if the method does that."""
    recipe = RECIPES[method]
    options: dict[str, Any] = {"lr": settings.lr, "betas": recipe.betas, "weight_decay": recipe.weight_decay}
    decoupled = settings.decay == "adamw"
    if not recipe.replaces:
        return AdamGnT(agent.parameters(), decoupled_weight_decay=decoupled, **options)
    kind = CBPAdamW if decoupled else CBPAdam
    return kind(
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
