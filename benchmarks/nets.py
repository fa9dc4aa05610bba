"""Fully connected networks, with what a method wants of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

import gnt


def mlp(sizes: Sequence[int], method: str = "backprop", activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these sizes with activations between them, in torch's own initial distribution.

    ``layer_norm``: a LayerNorm before each activation. ``crelu``: CReLU for activation, and half as many hidden units,
    so that each layer reads as many features as without.
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
    return nn.Sequential(*layers, nn.Linear(inputs, sizes[-1]))
