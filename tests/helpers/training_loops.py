"""Training loops around one small network, one for each entry point of gnt: learner, engine, optimizers, layers."""

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


class CustomForward(nn.Module):
    """Layers whose forward can be replaced: by a checkpointed or compiled one, or one in half precision."""

    def __init__(self, layers: nn.Sequential, run_layers: Forward | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.run_layers = run_layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) if self.run_layers is None else self.run_layers(self.layers, x)


@dataclass
class TrainingLoop:
    """A network with its optimizer and engines. ``steps_engine``: the loop calls the engine after the optimizer."""

    net: CustomForward
    optimizer: torch.optim.Optimizer
    engines: list[gnt.GnT]
    steps_engine: bool = False
    learner: gnt.ContinualBackprop | None = None

    def step(self, x: Tensor, y: Tensor) -> None:
        """Run forward, backward and optimizer step."""
        if self.learner is not None:
            self.learner.learn(x, y)
            return
        self.optimizer.zero_grad()
        F.mse_loss(self.net(x), y).backward()
        self.optimizer.step()
        self.after_step()

    def after_step(self) -> None:
        """Call the engine, if the entry point leaves that to the loop."""
        if self.steps_engine:
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
        """Copies of the parameters and the unit state."""
        return {
            "net": {name.replace("_orig_mod.", ""): p.detach().clone() for name, p in self.net.named_parameters()},
            "units": [g.state.state_dict() for engine in self.engines for g in engine.groups],
        }


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _sgd(net: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, **options)


def _engine(net: CustomForward, optimizer: torch.optim.Optimizer) -> gnt.GnT:
    return gnt.GnT(net.layers, optimizer, generator=_seeded(), **FREQUENT_REPLACEMENT)


def _learner(layers: nn.Sequential, run_layers: Forward | None) -> TrainingLoop:
    net = CustomForward(layers, run_layers)
    learner = gnt.ContinualBackprop(
        net, layers=layers, opt="sgd", step_size=0.05, momentum=0.9, generator=_seeded(), **FREQUENT_REPLACEMENT
    )
    return TrainingLoop(net, learner.opt, [learner.gnt], learner=learner)


def _manual(layers: nn.Sequential, run_layers: Forward | None) -> TrainingLoop:
    net = CustomForward(layers, run_layers)
    engine = _engine(net, optimizer := _sgd(net))
    return TrainingLoop(net, optimizer, [engine], steps_engine=True)


def _attached(layers: nn.Sequential, run_layers: Forward | None, **options: Any) -> TrainingLoop:
    net = CustomForward(layers, run_layers)
    engine = _engine(net, optimizer := _sgd(net, **options)).attach()
    return TrainingLoop(net, optimizer, [engine])


def _cbp(kind: Any, **options: Any) -> Callable[[nn.Sequential, Forward | None], TrainingLoop]:
    def make(layers: nn.Sequential, run_layers: Forward | None) -> TrainingLoop:
        net = CustomForward(layers, run_layers)
        optimizer = kind(net, layers=layers, generator=_seeded(), **options, **FREQUENT_REPLACEMENT)
        return TrainingLoop(net, optimizer, [optimizer.gnt])

    return make


def _layered(layers: nn.Sequential, run_layers: Forward | None, **options: Any) -> TrainingLoop:
    generator = _seeded()
    modules: list[nn.Module] = []
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Linear) and i:
            modules.append(gnt.CBPLinear(layers[i - 2], layer, generator=generator, **FREQUENT_REPLACEMENT))
        modules.append(layer)
    net = CustomForward(nn.Sequential(*modules), run_layers)
    return TrainingLoop(net, _sgd(net, **options), [m.engine for m in modules if isinstance(m, gnt.CBPLinear)])


ENTRY_POINTS: dict[str, Callable[[nn.Sequential, Forward | None], TrainingLoop]] = {
    "learner": _learner,
    "manual": _manual,
    "attached": _attached,
    "attached fused": lambda layers, run_layers: _attached(layers, run_layers, fused=True),
    "CBPSGD": _cbp(CBPSGD, lr=0.05, momentum=0.9),
    "CBPAdam": _cbp(CBPAdam, lr=0.01),
    "CBPAdamW": _cbp(CBPAdamW, lr=0.01),
    "layers": _layered,
    "layers fused": lambda layers, run_layers: _layered(layers, run_layers, fused=True),
}


def make_loop(name: str, run_layers: Forward | None = None) -> TrainingLoop:
    """The training loop of one entry point; the network is the same for all."""
    return ENTRY_POINTS[name](mlp(4, 8, 6, 5, 2), run_layers)
