"""A warning for layers that a penalty has trained in a task, though no forward of the task ran them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import nn

from gnt._utils.stack_level import user_level
from gnt.units import WEIGHT_LAYERS


def runs_as_module(modules: Iterable[nn.Module]) -> bool:
    """True for plain linear and convolution layers, whose forward shows that they are used.

    torch's attention uses the weight of its output layer, of a type of its own, without a forward of it.
    """
    return all(type(module) in WEIGHT_LAYERS for module in modules)


def warn_of_unused_layers(names: list[str], task: object) -> None:
    """Warn that parameters will be held for a task that has not run their layers."""
    if names:
        warnings.warn(
            f"{', '.join(names)} changed in task {task!r}, though no training forward ran the layer, and will be held "
            "for it. A penalty on all parameters does so: give it those of the layers that the task uses",
            stacklevel=user_level(),
        )
