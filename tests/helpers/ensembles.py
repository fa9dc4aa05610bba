"""Ensembles beside the same runs made alone: from the same seeds, fed the same batches, compared number by number."""

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
    """Every kind of layer that can be stacked, but for those that differ in their number of dimensions only."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2)),
        *(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.GroupNorm(3, 6), nn.LayerNorm([6, 2, 2]), nn.SiLU()),
        *(nn.Flatten(), nn.Linear(24, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.1)),
        *(nn.Linear(7, 5, bias=False), nn.LayerNorm(5), nn.RMSNorm(5), nn.Identity(), nn.LeakyReLU(), nn.Linear(5, 3)),
    ).double()


def single_run(make_net: MakeNet, seed: int, **settings: Any) -> gnt.Backprop:
    """The run that the docstring of Ensemble names; of ContinualBackprop, or with a rate of 0 of Backprop."""
    torch.manual_seed(seed)
    net = make_net()
    if settings.get("replacement_rate", 1e-4) == 0.0:
        kept = {key: value for key, value in settings.items() if key not in FREQUENT_REPLACEMENT}
        return gnt.Backprop(net, **kept)
    return gnt.ContinualBackprop(net, **settings)


def member_batches(
    t: int, members: int, batch: int, shape: tuple[int, ...], out: int, loss: str
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of step ``t``, different ones for each member."""
    generator = torch.Generator().manual_seed(1000 + t)
    x = torch.randn(members, batch, *shape, generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        return x, torch.randint(0, out, (members, batch), generator=generator)
    return x, torch.randn(members, batch, out, generator=generator, dtype=torch.float64)


@dataclass
class Comparison:
    """How far apart the runs came, and how many units were replaced in all."""

    apart: float = 0.0
    replaced: int = 0

    def see(self, mine: Tensor, theirs: Tensor) -> None:
        assert mine.shape == theirs.shape
        self.apart = max(self.apart, (mine - theirs).abs().max().item())


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
    """Free-running: an ensemble and each member alone. Draws and replaced units must be equal, for any reason."""
    ensemble = gnt.Ensemble(make_net, seeds, **settings)
    runs, streams = [], []
    for seed in seeds:
        runs.append(single_run(make_net, seed, **settings))
        streams.append(torch.get_rng_state())  # dropout draws from torch's generator, which each run has for itself
    compared = Comparison()
    for t in range(steps):
        x, y = member_batches(t, len(seeds), batch, shape, out, settings.get("loss", "mse"))
        together = ensemble.learn(x, y)
        for i, run in enumerate(runs):
            torch.set_rng_state(streams[i])
            single = run.learn(x[i], y[i])
            streams[i] = torch.get_rng_state()
            compared.see(together.loss[i], single.loss)
            compared.see(together.output[i], single.output)
            assert len(together.replaced) == len(single.replaced)
            for mine, theirs in zip(together.replaced, single.replaced, strict=True):
                assert torch.equal(mine[i], theirs), (t, i)
                compared.replaced += len(theirs)
    for i, run in enumerate(runs):
        member = ensemble.member(i).state_dict()
        assert member.keys() == run.net.state_dict().keys()
        for key, theirs in run.net.state_dict().items():
            compared.see(member[key], theirs)
        if ensemble.gnt is not None:
            assert torch.equal(ensemble.gnt.generators[i].get_state(), run.gnt.generator.get_state())
        assert torch.equal(ensemble.net.dropout[i].get_state(), streams[i])
    return compared


def copy_runs_into_ensemble(ensemble: gnt.Ensemble, runs: list[gnt.Backprop]) -> None:
    """Put the runs' parameters, optimizer state and unit state into the ensemble's."""
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
