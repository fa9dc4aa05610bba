"""What a method consists of, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import nn

from .masked import MaskedMethod
from .method import MemoryMethod, Recipe
from .packed import PackedMethod
from .parts import PARTS
from .progressive import ProgressiveMethod
from .scenario import Scenario
from .task_heads import TaskHeadsMethod

RECIPES: Final[dict[str, Recipe]] = {
    "backprop": Recipe(),
    "joint": Recipe(),  # differs in the tasks that it is given
    "continual_backprop": Recipe(engine=True),
    **{name: Recipe((name,)) for name in PARTS if name != "l2_init"},
    "ewc_cbp": Recipe(("ewc",), engine=True),
    "ewc_cbp_protected": Recipe(("ewc",), engine=True, protect="ewc"),
    "l2_init_ewc": Recipe(("l2_init", "ewc")),
    "er_cbp": Recipe(("er",), engine=True),
    "hat_cbp": Recipe(("hat",), engine=True, protect="hat"),
    "cbp_top": Recipe(engine=True, protect="top"),
    "upgd": Recipe(optimizer="upgd"),
}

_CLASSES: Final[dict[str, type[MemoryMethod]]] = {
    "packnet": PackedMethod,
    "progressive": ProgressiveMethod,
    "backprop_heads": TaskHeadsMethod,
    **dict.fromkeys(("hat", "ada_hat", "fg_ada_hat", "hat_cbp"), MaskedMethod),
}


def memory_method(
    name: str, make_net: Callable[[], nn.Module], settings: Any, scenario: Scenario, seed: int, steps: int
) -> MemoryMethod:
    """A method that trains the network of one seed.

    Args:
        name: name of the method.
        make_net: builds the network with its initial weights, drawn from torch's global generator. Methods with a
            network of their own take the sizes of its layers.
        settings: the settings of the experiment.
        scenario: decides loss and outputs.
        seed: the seed.
        steps: number of steps in each task.
    """
    kind = _CLASSES.get(name, MemoryMethod)
    return kind(RECIPES.get(name, Recipe()), make_net, settings, scenario, seed, steps)
