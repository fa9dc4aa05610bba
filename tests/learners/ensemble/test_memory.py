"""Methods against forgetting of an ensemble: each member has the importance of its own network and data."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.small_runs import assert_same

SEEDS = [3, 5, 8]


def mlp() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(4, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 6, bias=False), nn.ReLU(), nn.Linear(6, 3))
    ).double()


def conv() -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))).double()


def batch(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(SEEDS), 9, *shape, dtype=torch.float64, generator=generator)
    return x, torch.randint(3, (len(SEEDS), 9), generator=generator)


METHODS: dict[str, Any] = {
    "exact": lambda net: gnt.EWC(net, 20.0, chunk=4),
    "empirical": lambda net: gnt.EWC(net, 20.0, fisher="empirical", mode="online", decay=0.5),
    "normalized": lambda net: gnt.EWC(net, 0.05, normalize=True, samples=5),
    "MAS": lambda net: gnt.MAS(net, 1.0),
    "SI": lambda net: gnt.SI(net, 5.0),
}


def learn(learner: Any, member: int | None, shape: tuple[int, ...], steps: range) -> None:
    for step in steps:
        x, y = batch(step, *shape)
        learner.learn(x, y) if member is None else learner.learn(x[member], y[member])


@pytest.mark.parametrize(
    ("kind", "build"),
    [("exact", mlp), ("exact", conv), ("empirical", mlp), ("normalized", mlp), ("MAS", conv), ("SI", mlp)],
)
def test_each_member_learns_as_a_network_of_its_own_with_the_method(kind: str, build: Any) -> None:
    shape = (4,) if build is mlp else (1, 4, 4)
    settings: dict[str, Any] = {
        "loss": "cross_entropy",
        "opt": "sgd",
        "step_size": 0.1,
        "replacement_rate": 0.1,
        "maturity_threshold": 2,
    }
    ensemble = gnt.Ensemble(build, SEEDS, **settings)
    together = METHODS[kind](ensemble.net)
    ensemble.methods = [together]
    assert ensemble.gnt is not None
    assert ensemble.gnt.is_followed_by(together)
    singles = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        net = build()
        learner = gnt.ContinualBackprop(net, **settings)
        learner.methods = [METHODS[kind](net)]
        singles.append(learner)
    for task in range(2):
        steps = range(5 * task, 5 * task + 5)
        parts = batch(90 + task, *shape)
        data = [(parts[0][:, :4], parts[1][:, :4]), (parts[0][:, 4:], parts[1][:, 4:])]
        learn(ensemble, None, shape, steps)
        ensemble.end_task(**({} if kind == "SI" else {"data": iter(data)}))
        for number, learner in enumerate(singles):
            learn(learner, number, shape, steps)
            learner.end_task(**({} if kind == "SI" else {"data": [(x[number], y[number]) for x, y in data]}))
    learn(ensemble, None, shape, range(20, 22))
    assert sum(group.state.replaced for group in singles[0].gnt.groups) > 0
    for number, learner in enumerate(singles):
        learn(learner, number, shape, range(20, 22))
        alone = learner.methods[0]
        member = ensemble.net.member(number)
        for name, p in learner.net.named_parameters():
            torch.testing.assert_close(member.get_parameter(name), p, rtol=1e-8, atol=1e-10)
        for stacked, name in ensemble.net.parameters_of(member):
            found = together.importance(stacked).unflatten(0, (len(SEEDS), -1))[number]
            expected = alone.importance(learner.net.get_parameter(name))
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)


def test_data_and_outputs_that_do_not_fit_an_ensemble_are_refused_and_nothing_changes() -> None:
    ensemble = gnt.Ensemble(mlp, SEEDS, replacement_rate=0.0)
    ewc = gnt.EWC(ensemble.net, 1.0)
    x, y = batch(0, 4)
    ewc.consolidate(ensemble.net, (x, y))
    before = copy.deepcopy(ewc.state_dict())
    with pytest.raises(ValueError, match=r"its 3 members first, \(members, samples, ...\), got .* \(9, 4\)"):
        ewc.consolidate(ensemble.net, x[0])
    with pytest.raises(ValueError, match="output must be None for an ensemble"):
        ewc.consolidate(ensemble.net, x, output=ensemble.net)
    with pytest.raises(TypeError, match="data must be x"):
        ewc.consolidate(ensemble.net, None)
    with pytest.raises(ValueError, match="at least one sample, got none"):
        ewc.consolidate(ensemble.net, x[:, :0])
    assert_same(ewc.state_dict(), before)


def test_methods_drop_what_they_recorded_when_a_step_of_an_ensemble_fails() -> None:
    ensemble = gnt.Ensemble(mlp, SEEDS, loss="cross_entropy", replacement_rate=0.0)
    si = gnt.SI(ensemble.net, 1.0)
    ensemble.methods = [si]
    handle = ensemble.opt.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ensemble.learn(*batch(0, 4))
    handle.remove()
    with pytest.raises(RuntimeError, match=r"SI.step\(\) needs SI.backward\(\)"):
        si.step()
