"""A follower, or the optimizer's state, refuses a replacement: no unit is replaced, and what was due stays due."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gnt
from tests.helpers.small_runs import assert_same, batch, mlp

SETTINGS = {"replacement_rate": 0.1, "maturity_threshold": 1, "decay_rate": 0.9}


class Refusal(Exception):
    """The error of `Refuses`."""


class Refuses:
    """A follower that refuses if it is told to."""

    refuses = False

    def check_units(self, groups: Any) -> None:
        if self.refuses:
            raise Refusal

    def reset_units(self, param: Any, dim: int, index: Any, groups: int = 1) -> None:
        pass


def step(net: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    net(batch(seed)[0]).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("kernels", [None, False])
@pytest.mark.parametrize("accumulate", [True, "one"])
def test_units_that_were_due_stay_due(accumulate: Any, kernels: bool | None, attached: bool) -> None:
    net, follower = mlp(), Refuses()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    engine = gnt.GnT(net, optimizer, **SETTINGS, accumulate=accumulate, kernels=kernels, follow=[follower])
    if attached:
        engine.attach()
    refused = 0
    for seed in range(8):
        follower.refuses = refused < 3
        before = copy.deepcopy(net.state_dict())
        due = [group.state.accumulated for group in engine.groups]
        try:
            step(net, optimizer, seed)
            if not attached:
                engine.step()
        except Refusal:
            refused += 1
            assert_same(net.state_dict(), before)
            assert [group.state.accumulated for group in engine.groups] == due
            assert not any(map(len, engine.replaced))
            assert engine.updates == seed + 1
            saved = copy.deepcopy(engine.state_dict())
            engine.load_state_dict(saved)
            assert_same(engine.state_dict(), saved)
        else:
            if refused:
                break
            assert not any(map(len, engine.replaced))
    assert refused == 3
    assert any(map(len, engine.replaced))


def test_layers_whose_units_were_due_keep_them_due() -> None:
    linear = list(mlp(4, 8, 7, 6, 2))[::2]
    layers = [gnt.CBPLinear(*pair, replacement_rate=0.9, maturity_threshold=0) for pair in itertools.pairwise(linear)]
    net = torch.nn.Sequential(linear[0], *(each for pair in zip(layers, linear[1:], strict=True) for each in pair))
    follower = Refuses()
    layers[1].engine.follow(follower)
    follower.refuses = True
    with pytest.raises(Refusal):
        step(net, torch.optim.SGD(net.parameters(), lr=0.0), 0)
    assert [layer.group.state.replaced for layer in layers] == [7, 0, 0]
    assert [len(layer.engine.replaced[0]) for layer in layers] == [7, 0, 0]
    assert [layer.group.state.accumulated for layer in layers[1:]] == [0.0, 0.0]


def test_layers_refuse_an_optimizer_at_its_first_step() -> None:
    class Unknown(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for param in group["params"]:
                    self.state[param]["table"] = torch.zeros_like(param)

    first, second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
    net = torch.nn.Sequential(first, torch.nn.ReLU(), gnt.CBPLinear(first, second), second)
    with pytest.raises(TypeError, match="table"):
        step(net, Unknown(net.parameters(), lr=0.1), 0)


def test_a_selection_that_was_refused_can_be_replaced_later() -> None:
    net, follower = mlp(), Refuses()
    engine = gnt.GnT(net, replacement_rate=0.9, maturity_threshold=0, follow=[follower])
    net(batch(0)[0]).square().mean().backward()
    engine.update()
    units = engine.select()
    assert all(map(len, units))
    before = copy.deepcopy(engine.state_dict())
    follower.refuses = True
    with pytest.raises(Refusal):
        engine.replace(units)
    assert_same(engine.state_dict(), before)
    assert engine.is_selection(units)
    follower.refuses = False
    engine.replace(units)
    assert [group.state.replaced for group in engine.groups] == [len(each) for each in units]
    assert not engine.is_selection(units)


RULES: dict[str, Callable[..., Any]] = {
    "SNR": lambda *of, **more: gnt.SNR(*of, longest=4, estimate_every=3, **more),
    "ReDo": lambda *of, **more: gnt.ReDo(*of, tau=0.0, period=2, **more),
}


@pytest.mark.parametrize("kind", RULES)
def test_a_step_of_a_rule_that_was_refused_does_not_count(kind: str) -> None:
    net, follower = mlp(), Refuses()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    rule = RULES[kind](net, optimizer, follow=[follower])
    with torch.no_grad():
        net[0].bias[3] = -100.0
    step(net, optimizer, 0)
    rule.step()
    step(net, optimizer, 1)
    before, network = copy.deepcopy(rule.state_dict()), copy.deepcopy(net.state_dict())
    follower.refuses = True
    with pytest.raises(Refusal):
        rule.step()
    assert_same(rule.state_dict(), before)
    assert_same(net.state_dict(), network)
    assert not any(map(len, rule.replaced))
    follower.refuses = False
    step(net, optimizer, 2)
    assert 3 in rule.step()[0]
    assert rule.steps == 2
