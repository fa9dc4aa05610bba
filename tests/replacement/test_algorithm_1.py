"""`gnt.algorithm_1` against the literal twin: some hundred steps of SGD, both make their own choices and draws."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gnt
from tests.twins.algorithm_1 import Algorithm1

SIZES = (6, 12, 9, 10, 3)
STEPS = 400


def net(seed: int = 2) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, o in pairwise(SIZES[:-1]):
        layers += [nn.Linear(i, o), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(*SIZES[-2:])).double()


def data(t: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(t)
    x = torch.randn(4, SIZES[0], dtype=torch.float64, generator=generator)
    return x, torch.randn(4, SIZES[-1], dtype=torch.float64, generator=generator)


class Run:
    """A network that learns by SGD, with its features of each hidden layer."""

    def __init__(self) -> None:
        self.net = net()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def learn(self, t: int) -> list[np.ndarray]:
        x, y = data(t)
        features, h = [], x
        for module in self.net:
            h = module(h)
            if isinstance(module, nn.Tanh):
                features.append(h.detach().numpy())
        self.optimizer.zero_grad()
        nn.functional.mse_loss(h, y).backward()
        self.optimizer.step()
        return features


class TwinRun(Run):
    def __init__(self, rho: float, m: int, eta: float) -> None:
        super().__init__()
        layers = [module for module in self.net if isinstance(module, nn.Linear)]
        weights, biases = ([getattr(each, key).detach().numpy() for each in layers] for key in ("weight", "bias"))
        self.algorithm = Algorithm1(weights, biases, rho, m, eta)
        self.generator = torch.Generator().manual_seed(9)

    def sample(self, layer: int) -> np.ndarray:
        """Kaiming's distribution, with tanh's gain."""
        bound = 5 / 3 * math.sqrt(3 / SIZES[layer])
        row = torch.empty(SIZES[layer], dtype=torch.float64)
        return row.uniform_(-bound, bound, generator=self.generator).numpy()


RULES = {
    "seldom": (0.004, 20, 0.95),
    "often": (0.03, 10, 0.9),
    "more is due than there are": (0.5, 15, 0.8),
    "at once": (0.05, 0, 0.5),
}


@pytest.mark.parametrize("rules", RULES)
def test_the_engine_is_algorithm_1(rules: str) -> None:
    rho, m, eta = RULES[rules]
    twin, run = TwinRun(rho, m, eta), Run()
    settings: dict[str, Any] = {"replacement_rate": rho, "maturity_threshold": m, "decay_rate": eta}
    engine = gnt.algorithm_1(run.net, run.optimizer, generator=torch.Generator().manual_seed(9), **settings)
    count = adjacent = 0
    most = 0.0
    for t in range(STEPS):
        wanted = twin.algorithm.step(twin.learn(t), twin.sample)
        run.learn(t)
        found = engine.step()
        assert [units.tolist() for units in found] == wanted, f"step {t}"
        for number, group in enumerate(engine.groups):
            where = f"step {t}, layer {number}"
            assert group.state.age.tolist() == twin.algorithm.a[number].tolist(), where
            assert group.state.accumulated == twin.algorithm.c[number], where
            utility = group.state.utility.numpy()
            np.testing.assert_allclose(utility, twin.algorithm.u[number], rtol=1e-9, atol=1e-14, err_msg=where)
            assert torch.equal(group.state.corrected_utility, group.state.utility)
        for (name, p), q in zip(run.net.named_parameters(), twin.net.parameters(), strict=True):
            a, b = p.detach().numpy(), q.detach().numpy()
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=f"step {t}, {name}")
        most = max(most, *twin.algorithm.c)
        count += sum(map(len, wanted))
        adjacent += any(a and b for a, b in pairwise(wanted))
    assert twin.algorithm.closest > 1e-7, "a choice rests on a tie: take another seed"
    assert count > 20
    assert adjacent
    assert (most > 10) is (rules == "more is due than there are")


def test_an_ensemble_of_algorithm_1_is_its_members() -> None:
    seeds = [3, 14]
    settings: dict[str, Any] = {"replacement_rate": 0.03, "maturity_threshold": 10, "decay_rate": 0.9}
    step_size = {"step_size": 0.1, "opt": "sgd"}
    ensemble = gnt.Ensemble(
        lambda: copy.deepcopy(net(torch.initial_seed())), seeds, **step_size, **settings, **gnt.ALGORITHM_1
    )
    alone = []
    for seed in seeds:
        torch.manual_seed(seed)
        single = copy.deepcopy(net(torch.initial_seed()))
        alone.append(gnt.ContinualBackprop(single, **step_size, **settings, **gnt.ALGORITHM_1))
    count = 0
    for t in range(150):
        x, y = data(t)
        together = ensemble.learn(x.expand(2, *x.shape), y.expand(2, *y.shape))
        for number, learner in enumerate(alone):
            replaced = learner.learn(x, y).replaced
            assert [units[number].tolist() for units in together.replaced] == [units.tolist() for units in replaced]
            count += sum(map(len, replaced))
    assert count > 20
    assert [group.replaced for group in ensemble.report().groups] == [
        group.replaced for group in alone[0].gnt.report().groups
    ]


@pytest.mark.parametrize("make", [gnt.optim.CBPSGD, gnt.optim.CBPAdam])
def test_the_settings_go_into_every_way_in(make: type[torch.optim.Optimizer]) -> None:
    optimizer = make(net(), lr=0.1, **gnt.ALGORITHM_1)  # type: ignore[call-arg]
    engine: gnt.GnT = optimizer.gnt  # type: ignore[attr-defined]
    assert (engine.utility, engine.accumulate, engine.bias_transfer) == ("uncorrected_contribution", "one", False)


@pytest.mark.parametrize("rate", [0.25, 0.125, 0.03, 0.7])
def test_next_due_is_when_the_accumulator_exceeds_1(rate: float) -> None:
    engine = gnt.algorithm_1([nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)], replacement_rate=rate, maturity_threshold=3)
    features = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(4):
        due = engine.report().groups[0].next_due
        assert due is not None
        assert [len(engine.step([features])[0]) for _ in range(due)] == [0] * (due - 1) + [1]


def test_what_the_algorithm_fixes_is_refused() -> None:
    with pytest.raises(TypeError, match="utility, bias_transfer cannot be chosen here, Algorithm 1 fixes it"):
        gnt.algorithm_1(net(), bias_transfer=True, utility="weight")
    with pytest.raises(TypeError, match="unknown setting rate: algorithm_1 takes replacement_rate"):
        gnt.algorithm_1(net(), rate=0.1)
    with pytest.raises(TypeError, match="accumulate must be True, False or 'one', got 'two'"):
        gnt.GnT(net(), accumulate="two")
