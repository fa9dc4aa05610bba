"""Multilayer perceptrons, with the layers that a method needs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

import gnt


def mlp(sizes: Sequence[int], method: str = "backprop", activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these sizes with activations between them and torch's default initial weights.

    The method "layer_norm" gets a LayerNorm before each activation. "crelu" gets CReLU activations and half as many
    hidden units, so that each layer has as many inputs as without. "input_norm" begins with an InputNorm.
    """
    layers: list[nn.Module] = []
    inputs = sizes[0]
    for size in sizes[1:-1]:
        units = size // 2 if method == "crelu" else size
        layers.append(nn.Linear(inputs, units))
        if method == "layer_norm":
            layers.append(nn.LayerNorm(units))
        layers.append(gnt.CReLU() if method == "crelu" else activation())
        inputs = size
    layers.append(nn.Linear(inputs, sizes[-1]))
    if method == "input_norm":  # the other layers have the names that they have in the other networks
        return nn.Sequential(
            OrderedDict(inputs=gnt.nn.InputNorm(sizes[0]), **{str(i): m for i, m in enumerate(layers)})
        )
    return nn.Sequential(*layers)
