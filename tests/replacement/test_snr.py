"""`gnt.SNR`: agreement with the literal twin, replaced units, resume, other engines, errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import gnt
from gnt.replacement._firing_times import FiringTimes
from tests.twins.snr import SilentUnit


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def train(net: nn.Sequential, optimizer: torch.optim.Optimizer, seed: int) -> list[torch.Tensor]:
    """A step on one task of many, so that units become silent; the features before it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    optimizer.zero_grad()
    (net(x) - 3 * (-1) ** (seed // 20) * x[:, :2]).square().mean().backward()
    features = [net[:2](x).detach(), net[:4](x).detach()]
    optimizer.step()
    return features


def test_steps_agree_with_the_twin() -> None:
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    snr = gnt.SNR(net, optimizer, eta=0.2, estimate_every=15, longest=12, generator=torch.Generator().manual_seed(0))
    twins = [[SilentUnit(0.2, 12) for _ in range(group.num_units)] for group in snr.groups]
    total, thresholds = 0, set()
    for step in range(120):
        features = train(net, optimizer, step)
        with torch.no_grad():
            net.eval()(features[0][:, :3])  # not a training forward: it does not count
            net.train()
        replaced = snr.step()
        for group, units, h in zip(twins, replaced, features, strict=True):
            expected = [number for number, unit in enumerate(group) if unit.step(h[:, number].tolist())]
            assert units.tolist() == expected, f"step {step}"
            total += len(expected)
        for unit in (unit for group in twins for unit in group) if step % 15 == 14 else ():
            unit.estimate()
            thresholds.add(unit.threshold)
        for group, times in zip(twins, snr._times, strict=True):
            assert times.threshold.tolist() == [unit.threshold for unit in group]
    assert total > 20
    assert {1, 12} < thresholds
    assert sum(row[5] for row in snr.report().groups) == total
    assert "largest" in str(snr.report())


def test_a_silent_unit_becomes_a_new_one_with_new_optimizer_state() -> None:
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    snr = gnt.SNR(net, optimizer, longest=6)
    with torch.no_grad():
        net[0].bias[5] = -1000.0
    for step in range(3):
        before = net[0].weight.detach().clone()
        train(net, optimizer, step)
        replaced = snr.step()
    assert 5 in replaced[0]
    assert net[0].bias[5] == 0
    kept = [row for row in range(8) if row not in replaced[1]]
    assert not net[2].weight[kept, 5].any()
    assert not torch.equal(net[0].weight[5], before[5])
    assert not optimizer.state[net[0].weight]["exp_avg"][5].any()
    assert not optimizer.state[net[2].weight]["exp_avg_sq"][:, 5].any()


def test_a_resumed_run_in_a_learner_equals_an_uninterrupted_one() -> None:
    def learner() -> gnt.Backprop:
        net = make_net()
        made = gnt.Backprop(net, opt="adam", step_size=0.02)
        made.methods = [gnt.SNR(net, made.opt, eta=0.2, estimate_every=7, longest=6)]
        return made

    whole, other = learner(), learner()
    for step in range(24):
        x = torch.randn(2, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        whole.learn(x, -x[:, :2])
        if step == 11:
            other.net.load_state_dict(whole.net.state_dict())
            other.load_state_dict(copy.deepcopy(whole.state_dict()))
        elif step > 11:
            other.learn(x, -x[:, :2])
    for mine, theirs in zip(other.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert sum(row[5] for row in whole.methods[0].report().groups) > 3


def test_units_that_another_engine_replaces_restart_and_protected_ones_stay() -> None:
    class Held:
        def protected(self, group: gnt.UnitGroup) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.tensor(1), group.num_units).double()

    net = make_net()
    snr = gnt.SNR(net, longest=8, protect=Held())
    engine = gnt.GnT(net, replacement_rate=0.0, record=False, follow=[snr])
    with torch.no_grad():
        net[0].bias[:3] = -1000.0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    for step in range(4):
        train(net, optimizer, step)
        if step == 3:
            engine.replace([torch.tensor([2]), torch.tensor([], dtype=torch.int64)])
        replaced = snr.step()
    assert 0 in replaced[0]
    assert not {1, 2} & set(replaced[0].tolist())
    assert snr._times[0].silent[1] == 4


def test_errors_name_the_argument_and_change_nothing() -> None:
    net = make_net()
    for wrong, message in [
        ({"eta": 0.0}, "eta must be a number in"),
        ({"estimate_every": 0}, "estimate_every must be an integer >= 1, got 0"),
        ({"longest": 0.5}, "longest must be an integer >= 1, got 0.5"),
    ]:
        settings: dict[str, Any] = wrong
        with pytest.raises(ValueError, match=message):
            gnt.SNR(net, **settings)
    snr, other = gnt.SNR(net, longest=8), gnt.SNR(net, longest=9)
    with pytest.raises(RuntimeError, match="no features"):
        snr.step()
    with pytest.raises(ValueError, match="'counts'"):
        snr.load_state_dict(other.state_dict())
    net(torch.full((2, 3), torch.nan, dtype=torch.float64)).sum().backward()
    with pytest.raises(FloatingPointError, match="SNR has changed nothing"):
        snr.step()
    assert snr.steps == 0
    assert not snr._times[0].silent.any()


def test_a_threshold_stays_while_no_silent_time_is_known() -> None:
    """A unit that was silent for a whole interval is not replaced at its end, nor is one of an unused layer later."""
    net = make_net()
    snr = gnt.SNR(net, estimate_every=5, longest=40)
    for step in range(20):
        silent = torch.ones(2, 12).double()
        silent[:, 3] = -1.0
        replaced = snr.step([silent, torch.ones(2, 8).double()])
        assert replaced[0].tolist() == ([3] if step == 19 else [])
    times = FiringTimes(2, 40, torch.device("cpu"))
    times.set_thresholds(0.1)
    assert times.threshold.tolist() == [20, 20]
    times.update(torch.tensor([True, False]))
    times.set_thresholds(0.1)
    assert times.threshold.tolist() == [1, 20]
