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
    for _ in range(3):  # where a unit always fired no time was cut off: its threshold does not double
        times.update(torch.tensor([True, False]))
        times.set_thresholds(0.1)
        assert times.threshold.tolist() == [1, 20]


SETTINGS: dict[str, Any] = {"eta": 0.2, "estimate_every": 15, "longest": 12}


def member_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def member_conv_net() -> nn.Sequential:
    layers = [nn.Conv2d(1, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)]
    return nn.Sequential(*layers).double()


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]


def member_batch(step: int, members: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Batches of one task of many; each member has another one."""
    x = torch.randn(members, 2, *shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return x, 3 * (-1) ** (step // 20) * x.flatten(2)[..., :2]


@pytest.mark.parametrize(
    ("make", "shape"), [(member_net, (3,)), (member_conv_net, (1, 2, 2))], ids=["linear", "convolution"]
)
def test_members_of_an_ensemble_equal_networks_trained_alone(make: Any, shape: tuple[int, ...]) -> None:
    seeds = [3, 14, 5]
    ensemble = gnt.Ensemble(make, seeds, opt="adam", step_size=0.02, replacement_rate=0.0)
    ensemble.methods = [gnt.SNR(ensemble.net, ensemble.opt, generator=generators(3), **SETTINGS)]
    alone = []
    for seed, generator in zip(seeds, generators(3), strict=True):
        torch.manual_seed(seed)
        learner = gnt.Backprop(make(), opt="adam", step_size=0.02)
        learner.methods = [gnt.SNR(learner.net, learner.opt, generator=generator, **SETTINGS)]
        alone.append(learner)
    total = unequal = 0
    for step in range(70):
        x, y = member_batch(step, 3, shape)
        together = ensemble.learn(x, y).replaced
        each = [learner.learn(x[number], y[number]).replaced for number, learner in enumerate(alone)]
        for number, group in enumerate(ensemble.methods[0].groups):
            size = group.num_units // 3
            own = [units[number] + member * size for member, units in enumerate(each)]
            assert together[number].tolist() == torch.cat(own).tolist(), f"step {step}"
            total += len(together[number])
            unequal += len({len(units) for units in own}) > 1
    assert total > 20
    assert unequal > 5
    for number, learner in enumerate(alone):
        for mine, theirs in zip(ensemble.member(number).parameters(), learner.net.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)
        own = ensemble.methods[0].generator.generators[number]
        assert torch.equal(own.get_state(), learner.methods[0].generator.get_state())


def test_an_ensemble_resumes_bit_for_bit_beside_an_engine_whose_replacements_restart_silent_times() -> None:
    def build() -> gnt.Ensemble:
        made = gnt.Ensemble(member_net, [1, 2], opt="adam", step_size=0.02, replacement_rate=0.02, maturity_threshold=5)
        made.methods = [gnt.SNR(made.net, made.opt, generator=generators(2), bias_init="initial", **SETTINGS)]
        assert made.gnt is not None
        made.gnt.follow(made.methods[0])
        return made

    whole, other = build(), build()
    shapes = set()
    for step in range(40):
        x, y = member_batch(step, 2, (3,))
        replaced = whole.learn(x, y).replaced
        shapes.update(each.ndim for each in replaced[:2])
        assert [each.ndim for each in replaced[2:]] == [1, 1]
        if step == 19:
            other.load_state_dict(copy.deepcopy(whole.state_dict()))
            other.net.load_state_dict(whole.net.state_dict())
        elif step > 19:
            other.learn(x, y)
    assert shapes == {2}
    for mine, theirs in zip(other.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert sum(row[5] for row in whole.methods[0].report().groups) > 3


def test_settings_that_an_ensemble_cannot_have_are_refused() -> None:
    ensemble = gnt.Ensemble(member_net, [1, 2], replacement_rate=0.01)
    one = torch.Generator()
    for wrong, error, message in [
        ({"generator": None}, TypeError, "generator must be a list of 2 torch.Generators.*got None"),
        ({"generator": generators(3)}, TypeError, "one for each member, got 3 objects"),
        ({"generator": [one, one]}, ValueError, "generator holds a generator twice"),
        ({"init": lambda tensor, slot, generator: tensor.zero_()}, TypeError, "init must be a name.*<lambda>"),
        ({"process_group": object()}, TypeError, "process_group must be None"),
        ({"follow": [ensemble.gnt]}, TypeError, "EnsembleGnT cannot follow a rule on the network of an ensemble"),
    ]:
        with pytest.raises(error, match=message):
            gnt.SNR(ensemble.net, ensemble.opt, **{"generator": generators(2), **wrong})  # type: ignore[arg-type]
    snr = gnt.SNR(ensemble.net, ensemble.opt, generator=generators(2))
    with pytest.raises(TypeError, match="EnsembleGnT cannot follow"):
        snr.follow(ensemble.gnt)
    assert snr.followers == ()
    with pytest.raises(RuntimeError, match="build a new Ensemble"):
        snr.rebind(ensemble.net)
