"""Builders of the parts of methods: penalties, replay, projections of gradients, masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt

from ..methods import with_seed
from ..seeds import stream
from .scenario import Scenario


@dataclass(frozen=True)
class Given:
    """What a part is built from: the network, the settings of the experiment, its scenario, and the seed."""

    net: nn.Module
    settings: Any
    scenario: Scenario
    seed: int

    def buffer(self) -> gnt.ReplayBuffer:
        """The buffer of stored images."""
        return gnt.ReplayBuffer(self.settings.memory, generator=stream(self.seed, "memory"))


def _ewc(given: Given) -> Any:
    samples = getattr(given.settings, "samples", None)
    return gnt.EWC(given.net, given.settings.strength, samples=samples)


def _gem(given: Given) -> Any:
    each = given.settings.memory // given.scenario.tasks
    own = {"margin": given.settings.margin, "generator": stream(given.seed, "memory")}
    return gnt.GEM(given.net, given.scenario.loss, per_task=each, **own)


def _der(given: Given, beta: float) -> Any:
    return gnt.DER(given.net, given.buffer(), alpha=given.settings.alpha, beta=beta, loss=given.scenario.loss)


def _generative_replay(given: Given) -> Any:
    net, settings, scenario = given.net, given.settings, given.scenario
    inputs = next(layer.in_features for layer in net.modules() if isinstance(layer, nn.Linear))
    hidden = [int(width) for width in settings.hidden.split("-")]
    seed = stream(given.seed, "generative model").initial_seed()
    model = with_seed(seed, lambda: gnt.VAE(inputs, hidden, settings.latent))

    def of_each_task(output: Tensor, old: Tensor) -> Tensor:
        """The loss of the outputs of each earlier task, with the classes among these that the old network finds."""
        own = [scenario.own_outputs(task) for task in range(replay.tasks)]
        return torch.stack([F.cross_entropy(output[:, each], old[:, each].argmax(1)) for each in own]).mean()

    replay = gnt.GenerativeReplay(
        net,
        model,
        loss=scenario.loss,
        targets="hard" if scenario.own_outputs(0) is None else of_each_task,
        optimizer=torch.optim.Adam(model.parameters(), lr=settings.lr),
        generator=stream(given.seed, "memory"),
    )
    return replay


def _lwf(given: Given) -> Any:
    net, scenario = given.net, given.scenario

    def heads(x: Tensor) -> list[Tensor]:
        output = net(x)
        return [output[:, scenario.own_outputs(task)] for task in range(lwf.tasks)]

    lwf = gnt.LwF(net, given.settings.strength, forward=None if scenario.own_outputs(0) is None else heads)
    return lwf


def _masks(given: Given, kind: type[gnt.HAT], **own: Any) -> Any:
    settings = given.settings
    shared = {"s_max": settings.s_max, "sparsity": settings.sparsity, "apply": settings.form}
    generator = stream(given.seed, "masks")
    return kind(given.net, given.net.groups(), **shared, **own, generator=generator)  # type: ignore[operator]


def _ada_hat(given: Given) -> Any:
    own = {name: getattr(given.settings, name) for name in ("alpha", "epsilon", "variant")}
    return _masks(given, gnt.AdaHAT, **own)


def _fg_ada_hat(given: Given) -> Any:
    own = {name: getattr(given.settings, name) for name in ("alpha", "importance", "base_linear")}
    return _masks(given, gnt.FGAdaHAT, **own)


PARTS: Final[dict[str, Callable[[Given], Any]]] = {
    "ewc": _ewc,
    "si": lambda given: gnt.SI(given.net, given.settings.strength),
    "mas": lambda given: gnt.MAS(given.net, given.settings.strength),
    "l2_init": lambda given: gnt.L2Init(given.net, given.settings.l2_init),
    "er": lambda given: gnt.ExperienceReplay(given.buffer()),
    "der": lambda given: _der(given, 0.0),
    "der_plus_plus": lambda given: _der(given, given.settings.beta),
    "agem": lambda given: gnt.AGEM(given.net, given.buffer(), given.scenario.loss),
    "gem": _gem,
    "generative_replay": _generative_replay,
    "lwf": _lwf,
    "hat": lambda given: _masks(given, gnt.HAT),
    "ada_hat": _ada_hat,
    "fg_ada_hat": _fg_ada_hat,
}
"""Name -> function that builds the part, an object with hooks as a learner's ``methods`` have."""

MEASURED_AT_THE_END: Final = ("ewc", "mas")
"""Parts that measure importances on the images of a task, of the outputs that belong to it."""
