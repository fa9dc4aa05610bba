"""Small networks for the tests of regularization."""

from __future__ import annotations

import torch
from torch import nn

from tests.twins.networks import Builder


def net(seed: int = 0) -> nn.Sequential:
    """Two linear layers of 4, 6 and 2 units with a ReLU between them."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def partly_frozen() -> nn.Sequential:
    """`net` with a frozen first weight."""
    some = net()
    some[0].weight.requires_grad = False
    return some


def float64_net(build: Builder) -> nn.Sequential:
    """A network in float64 from its builder."""
    torch.manual_seed(1)
    return nn.Sequential(*build()).double()
