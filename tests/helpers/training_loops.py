"""Every way into gnt, around one small network, as a loop would use it: the loop tests run them all.

A `TrainingLoop` has the network, its optimizer, and its engines in network order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from gnt.optim import CBPSGD, CBPAdam, CBPAdamW
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, batch, mlp

Forward = Callable[[nn.Module, Tensor], Tensor]


class Body(nn.Module):
    """A network of layers whose forward may be another: checkpointed, compiled, in half precision."""

    def __init__(self, layers: nn.Sequential, how: Forward | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) if self.how is None else self.how(self.layers, x)


@dataclass
class TrainingLoop:
    net: Body
    optimizer: torch.optim.Optimizer
    engines: list[gnt.GnT]
    by_hand: bool = False
    learner: gnt.ContinualBackprop | None = None

    def step(self, x: Tensor, y: Tensor) -> None:
        """Forward, backward, step; a learner does it in one call."""
        if self.learner is not None:
            self.learner.learn(x, y)
            return
        self.optimizer.zero_grad()
        F.mse_loss(self.net(x), y).backward()
        self.optimizer.step()
        self.after()

    def after(self) -> None:
        """What a loop must do after the optimizer's step."""
        if self.by_hand:
            self.engines[0].step()

    def train(self, steps: range) -> TrainingLoop:
        for t in steps:
            self.step(*batch(t))
        return self

    def replaced(self) -> int:
        return sum(group.state.replaced for engine in self.engines for group in engine.groups)

    def updates(self) -> set[int]:
        return {engine.updates for engine in self.engines}

    def state(self) -> dict[str, Any]:
        """Network and engines, to compare."""
        return {
            "net": {name.replace("_orig_mod.", ""): p.detach().clone() for name, p in self.net.named_parameters()},
            "units": [g.state.state_dict() for engine in self.engines for g in engine.groups],
        }


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _sgd(net: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, **options)


def _engine(net: Body, optimizer: torch.optim.Optimizer) -> gnt.GnT:
    return gnt.GnT(net.layers, optimizer, generator=_seeded(), **FREQUENT_REPLACEMENT)


def _learner(layers: nn.Sequential, how: Forward | None) -> TrainingLoop:
    net = Body(layers, how)
    learner = gnt.ContinualBackprop(
        net, layers=layers, opt="sgd", step_size=0.05, momentum=0.9, generator=_seeded(), **FREQUENT_REPLACEMENT
    )
    return TrainingLoop(net, learner.opt, [learner.gnt], learner=learner)


def _manual(layers: nn.Sequential, how: Forward | None) -> TrainingLoop:
    net = Body(layers, how)
    engine = _engine(net, optimizer := _sgd(net))
    return TrainingLoop(net, optimizer, [engine], by_hand=True)


def _attached(layers: nn.Sequential, how: Forward | None, **options: Any) -> TrainingLoop:
    net = Body(layers, how)
    engine = _engine(net, optimizer := _sgd(net, **options)).attach()
    return TrainingLoop(net, optimizer, [engine])


def _cbp(kind: Any, **options: Any) -> Callable[[nn.Sequential, Forward | None], TrainingLoop]:
    def make(layers: nn.Sequential, how: Forward | None) -> TrainingLoop:
        net = Body(layers, how)
        optimizer = kind(net, layers=layers, generator=_seeded(), **options, **FREQUENT_REPLACEMENT)
        return TrainingLoop(net, optimizer, [optimizer.gnt])

    return make


def _layered(layers: nn.Sequential, how: Forward | None, **options: Any) -> TrainingLoop:
    generator = _seeded()
    modules: list[nn.Module] = []
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Linear) and i:
            modules.append(gnt.CBPLinear(layers[i - 2], layer, generator=generator, **FREQUENT_REPLACEMENT))
        modules.append(layer)
    net = Body(nn.Sequential(*modules), how)
    return TrainingLoop(net, _sgd(net, **options), [m.engine for m in modules if isinstance(m, gnt.CBPLinear)])


ENTRY_POINTS: dict[str, Callable[[nn.Sequential, Forward | None], TrainingLoop]] = {
    "learner": _learner,
    "manual": _manual,
    "attached": _attached,
    "attached fused": lambda layers, how: _attached(layers, how, fused=True),
    "CBPSGD": _cbp(CBPSGD, lr=0.05, momentum=0.9),
    "CBPAdam": _cbp(CBPAdam, lr=0.01),
    "CBPAdamW": _cbp(CBPAdamW, lr=0.01),
    "layers": _layered,
    "layers fused": lambda layers, how: _layered(layers, how, fused=True),
}


def make_loop(name: str, how: Forward | None = None) -> TrainingLoop:
    """One way in, around the same network each time."""
    return ENTRY_POINTS[name](mlp(4, 8, 6, 5, 2), how)
