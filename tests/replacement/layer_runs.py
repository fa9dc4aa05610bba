"""A network with a CBP layer, and its training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, batch


def build() -> nn.Sequential:
    """Linear, norm, ReLU, CBP layer, head."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Identity(), nn.Linear(8, 2))
    settings = {**FREQUENT_REPLACEMENT, "generator": torch.Generator().manual_seed(5)}
    net[3] = gnt.CBPLinear(net[0], net[4], norms=net[1], **settings)
    return net


def sgd(net: nn.Module) -> torch.optim.SGD:
    """The optimizer of the network."""
    return torch.optim.SGD(net.parameters(), lr=0.05)


def run(
    net: nn.Module, optimizer: torch.optim.Optimizer, seeds: Iterable[int], forward: Callable[..., Any] | None = None
) -> None:
    """Train on one batch for each seed."""
    for seed in seeds:
        optimizer.zero_grad()
        (forward or net)(batch(seed)[0]).square().mean().backward()
        optimizer.step()
