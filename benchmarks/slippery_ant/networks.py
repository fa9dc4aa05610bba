"""The policy and value networks of PPO's agent, as sequences of layers with LeCun-uniform weights."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn

from gnt import UnitGroup, walk


def named_layers(name: str, body: nn.Sequential, head: nn.Module) -> nn.Sequential:
    """The layers of one network. Hidden layers, and so their unit groups, are named ``<name>_1``, ``<name>_2``, ..."""
    named: list[tuple[str, nn.Module]] = []
    for layer in body:
        hidden = len(named) // 2 + 1
        named.append((f"{name}_{hidden}" if isinstance(layer, nn.Linear) else f"{name}_activation_{hidden}", layer))
    return nn.Sequential(OrderedDict([*named, (f"{name}_head", head)]))


@torch.no_grad()
def lecun_init_(net: nn.Sequential, generator: torch.Generator) -> None:
    """Set weights uniform in +-sqrt(3 / fan_in), which has variance 1 / fan_in, and biases to 0."""
    for layer in net:
        if isinstance(layer, nn.Linear):
            bound = math.sqrt(3 / layer.in_features)
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()


def hidden_units(*nets: nn.Sequential) -> list[UnitGroup]:
    """The unit groups of the hidden layers of all networks."""
    return [group for net in nets for group in walk(net)]
