"""`gnt.algorithm_1` against a literal implementation of the paper: both select units and draw weights themselves."""

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


def make_net(seed: int = 2) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, o in pairwise(SIZES[:-1]):
        layers += [nn.Linear(i, o), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(*SIZES[-2:])).double()


def batch(t: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(t)
    x = torch.randn(4, SIZES[0], dtype=torch.float64, generator=generator)
    return x, torch.randn(4, SIZES[-1], dtype=torch.float64, generator=generator)


class Run:
    """A network trained with SGD; each step returns the features of each hidden layer."""

    def __init__(self) -> None:
        self.net = make_net()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def learn(self, t: int) -> list[np.ndarray]:
        x, y = batch(t)
        features, h = [], x
        for module in self.net:
            h = module(h)
            if isinstance(module, nn.Tanh):
                features.append(h.detach().numpy())
        self.optimizer.zero_grad()
        nn.functional.mse_loss(h, y).backward()
        self.optimizer.step()
        return features


class ReferenceRun(Run):
    """A run with the literal algorithm."""

    def __init__(self, rho: float, m: int, eta: float) -> None:
        super().__init__()
        layers = [module for module in self.net if isinstance(module, nn.Linear)]
        weights, biases = ([getattr(each, key).detach().numpy() for each in layers] for key in ("weight", "bias"))
        self.algorithm = Algorithm1(weights, biases, rho, m, eta)
        self.generator = torch.Generator().manual_seed(9)

    def sample(self, layer: int) -> np.ndarray:
        """Kaiming uniform weights with the gain of tanh."""
        bound = 5 / 3 * math.sqrt(3 / SIZES[layer])
        row = torch.empty(SIZES[layer], dtype=torch.float64)
        return row.uniform_(-bound, bound, generator=self.generator).numpy()


SETTINGS = {  # rho, m, eta
    "low rate": (0.004, 20, 0.95),
    "high rate": (0.03, 10, 0.9),
    "more units due than eligible": (0.5, 15, 0.8),
    "maturity threshold 0": (0.05, 0, 0.5),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_engine_equals_algorithm_1(case: str) -> None:
    rho, m, eta = SETTINGS[case]
    reference, run = ReferenceRun(rho, m, eta), Run()
    settings: dict[str, Any] = {"replacement_rate": rho, "maturity_threshold": m, "decay_rate": eta, "init": "kaiming"}
    engine = gnt.algorithm_1(run.net, run.optimizer, generator=torch.Generator().manual_seed(9), **settings)
    count = adjacent = 0
    largest = 0.0
    for t in range(STEPS):
        expected = reference.algorithm.step(reference.learn(t), reference.sample)
        run.learn(t)
        replaced = engine.step()
        assert [units.tolist() for units in replaced] == expected, f"step {t}"
        for number, group in enumerate(engine.groups):
            where = f"step {t}, layer {number}"
            assert group.state.age.tolist() == reference.algorithm.a[number].tolist(), where
            assert group.state.accumulated == reference.algorithm.c[number], where
            utility = group.state.utility.numpy()
            np.testing.assert_allclose(utility, reference.algorithm.u[number], rtol=1e-9, atol=1e-14, err_msg=where)
            assert torch.equal(group.state.corrected_utility, group.state.utility)
        for (name, p), q in zip(run.net.named_parameters(), reference.net.parameters(), strict=True):
            a, b = p.detach().numpy(), q.detach().numpy()
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=f"step {t}, {name}")
        largest = max(largest, *reference.algorithm.c)
        count += sum(map(len, expected))
        adjacent += any(a and b for a, b in pairwise(expected))
    assert reference.algorithm.closest > 1e-7, (
        "two utilities are nearly equal, so the selection depends on rounding: use another seed"
    )
    assert count > 20
    assert adjacent
    assert (largest > 10) is (case == "more units due than eligible")


def test_an_ensemble_replaces_the_same_units_as_its_members_alone() -> None:
    seeds = [3, 14]
    settings: dict[str, Any] = {"replacement_rate": 0.03, "maturity_threshold": 10, "decay_rate": 0.9}
    step_size = {"step_size": 0.1, "opt": "sgd"}
    ensemble = gnt.Ensemble(
        lambda: copy.deepcopy(make_net(torch.initial_seed())), seeds, **step_size, **settings, **gnt.ALGORITHM_1
    )
    single_learners = []
    for seed in seeds:
        torch.manual_seed(seed)
        single = copy.deepcopy(make_net(torch.initial_seed()))
        single_learners.append(gnt.ContinualBackprop(single, **step_size, **settings, **gnt.ALGORITHM_1))
    count = 0
    for t in range(150):
        x, y = batch(t)
        step = ensemble.learn(x.expand(2, *x.shape), y.expand(2, *y.shape))
        for number, learner in enumerate(single_learners):
            replaced = learner.learn(x, y).replaced
            assert [units[number].tolist() for units in step.replaced] == [units.tolist() for units in replaced]
            count += sum(map(len, replaced))
    assert count > 20
    assert [group.replaced for group in ensemble.report().groups] == [
        group.replaced for group in single_learners[0].gnt.report().groups
    ]


@pytest.mark.parametrize("make", [gnt.optim.CBPSGD, gnt.optim.CBPAdam])
def test_cbp_optimizers_accept_the_algorithm_1_settings(make: type[torch.optim.Optimizer]) -> None:
    optimizer = make(make_net(), lr=0.1, **gnt.ALGORITHM_1)  # type: ignore[call-arg]
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


def test_settings_fixed_by_the_algorithm_are_refused() -> None:
    with pytest.raises(TypeError, match="utility, bias_transfer cannot be chosen here, Algorithm 1 fixes it"):
        gnt.algorithm_1(make_net(), bias_transfer=True, utility="weight")
    with pytest.raises(TypeError, match="unknown setting rate: algorithm_1 takes replacement_rate"):
        gnt.algorithm_1(make_net(), rate=0.1)
    with pytest.raises(TypeError, match="accumulate must be True, False or 'one', got 'two'"):
        gnt.GnT(make_net(), accumulate="two")
