"""Ensembles compared with single runs from the same seeds on the same batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import gnt

FREQUENT_REPLACEMENT: dict[str, Any] = {"replacement_rate": 0.02, "maturity_threshold": 5, "decay_rate": 0.9}
MakeNet = Callable[[], nn.Module]


def mlp(*widths: int, dtype: torch.dtype = torch.float64) -> MakeNet:
    def make_net() -> nn.Module:
        layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1]).to(dtype)

    return make_net


def conv_net() -> nn.Module:
    """Every kind of layer that can be stacked; of layers that exist for 1, 2 and 3 dimensions, one of them."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2)),
        *(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.GroupNorm(3, 6), nn.LayerNorm([6, 2, 2]), nn.SiLU()),
        *(nn.Flatten(), nn.Linear(24, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.1)),
        *(nn.Linear(7, 5, bias=False), nn.LayerNorm(5), nn.RMSNorm(5), nn.Identity(), nn.LeakyReLU(), nn.Linear(5, 3)),
    ).double()


def single_run(make_net: MakeNet, seed: int, **settings: Any) -> gnt.Backprop:
    """The run that a member of an Ensemble must equal: ContinualBackprop, or Backprop at a replacement rate of 0."""
    torch.manual_seed(seed)
    net = make_net()
    if settings.get("replacement_rate", 1e-4) == 0.0:
        rest = {key: value for key, value in settings.items() if key not in FREQUENT_REPLACEMENT}
        return gnt.Backprop(net, **rest)
    return gnt.ContinualBackprop(net, **settings)


def member_batches(
    t: int, members: int, batch: int, shape: tuple[int, ...], out: int, loss: str
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of step ``t``, with a different batch for each member."""
    generator = torch.Generator().manual_seed(1000 + t)
    x = torch.randn(members, batch, *shape, generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        return x, torch.randint(0, out, (members, batch), generator=generator)
    return x, torch.randn(members, batch, out, generator=generator, dtype=torch.float64)


@dataclass
class Comparison:
    """The largest difference between the runs, and how many units were replaced in total."""

    max_difference: float = 0.0
    replaced: int = 0

    def add(self, member: Tensor, single: Tensor) -> None:
        assert member.shape == single.shape
        self.max_difference = max(self.max_difference, (member - single).abs().max().item())


def compare_with_single_runs(
    make_net: MakeNet,
    seeds: list[int],
    steps: int,
    *,
    shape: tuple[int, ...],
    out: int,
    batch: int = 2,
    **settings: Any,
) -> Comparison:
    """Train an ensemble and a single run for each member; assert equal random draws and equal replaced units."""
    ensemble = gnt.Ensemble(make_net, seeds, **settings)
    runs, streams = [], []
    for seed in seeds:
        runs.append(single_run(make_net, seed, **settings))
        streams.append(torch.get_rng_state())  # dropout draws from torch's generator: each run has its own state
    compared = Comparison()
    for t in range(steps):
        x, y = member_batches(t, len(seeds), batch, shape, out, settings.get("loss", "mse"))
        together = ensemble.learn(x, y)
        for i, run in enumerate(runs):
            torch.set_rng_state(streams[i])
            single = run.learn(x[i], y[i])
            streams[i] = torch.get_rng_state()
            compared.add(together.loss[i], single.loss)
            compared.add(together.output[i], single.output)
            assert len(together.replaced) == len(single.replaced)
            for member_units, single_units in zip(together.replaced, single.replaced, strict=True):
                assert torch.equal(member_units[i], single_units), (t, i)
                compared.replaced += len(single_units)
    for i, run in enumerate(runs):
        member = ensemble.member(i).state_dict()
        assert member.keys() == run.net.state_dict().keys()
        for key, value in run.net.state_dict().items():
            compared.add(member[key], value)
        if ensemble.gnt is not None:
            assert torch.equal(ensemble.gnt.generators[i].get_state(), run.gnt.generator.get_state())
        assert torch.equal(ensemble.net.dropout[i].get_state(), streams[i])
    return compared


def copy_runs_into_ensemble(ensemble: gnt.Ensemble, runs: list[gnt.Backprop]) -> None:
    """Copy the runs' parameters, optimizer state and unit state into the ensemble."""
    members = len(runs)
    with torch.no_grad():
        for i, run in enumerate(runs):
            pairs = zip(ensemble.net.parameters(), run.net.parameters(), strict=True)
            for mine, theirs in pairs:
                mine.view(members, *theirs.shape)[i] = theirs
                for key, value in run.opt.state[theirs].items():
                    if value.ndim:
                        state = ensemble.opt.state[mine]
                        state.setdefault(key, value.repeat(members, *[1] * (value.ndim - 1)))
                        state[key].view(members, *value.shape)[i] = value
            if ensemble.gnt is not None:
                for group, single in zip(ensemble.gnt.groups, run.gnt.groups, strict=True):
                    for key in ("utility", "mean_features", "born", "last_active"):
                        value = getattr(single.state, key)
                        whole = getattr(group.state, key)
                        whole.unflatten(-1, (members, -1)).select(-2, i).copy_(value)
