"""ReDo: which units it replaces and when, resuming from a saved state, and the errors it raises."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.small_runs import assert_same


def make_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def learn(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    net(torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
    optimizer.step()


def make_run(seed: int = 0, **settings: Any) -> tuple[nn.Sequential, torch.optim.Optimizer, gnt.ReDo]:
    net = make_net(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    return net, optimizer, gnt.ReDo(net, optimizer, **settings)


def features(dormant: int = 0) -> list[torch.Tensor]:
    """Features that are 0 for the first ``dormant`` units of the first layer, and 1 for all others."""
    first = torch.ones(3, 6)
    first[:, :dormant] = 0.0
    return [first, torch.ones(3, 5)]


@pytest.mark.parametrize("dormant", [0, 2, 6])
def test_tau_0_replaces_exactly_the_units_with_zero_features(dormant: int) -> None:
    net, _, redo = make_run(tau=0.0, period=1)
    before = copy.deepcopy(net.state_dict())
    replaced = redo.step(features(dormant))
    assert [units.tolist() for units in replaced] == [list(range(dormant)), []]
    after = net.state_dict()
    assert not after["2.weight"][:, :dormant].any()
    assert torch.equal(after["2.weight"][:, dormant:], before["2.weight"][:, dormant:])
    assert not (after["0.weight"][:dormant] == before["0.weight"][:dormant]).any()
    assert torch.equal(after["0.weight"][dormant:], before["0.weight"][dormant:])
    assert not after["0.bias"][:dormant].any()
    assert after["0.weight"].abs().max() <= 0.5  # 1 / sqrt(4), torch's default
    for name in ("2.bias", "4.weight", "4.bias"):  # ReDo transfers nothing into the biases
        assert torch.equal(after[name], before[name])


def test_units_at_or_below_tau_times_the_layers_mean_are_dormant() -> None:
    _, _, redo = make_run(tau=0.5, period=1)
    first = torch.tensor([[0.5, -0.5, 1.0, 1.0, 1.0, 2.0], [0.5, -0.5, 1.0, -1.0, 1.0, 2.0]])  # the mean of |h| is 1
    assert redo.step([first, torch.ones(2, 5)])[0].tolist() == [0, 1]


def test_units_are_checked_every_period_steps() -> None:
    _, _, redo = make_run(tau=0.0, period=3)
    counts = [len(redo.step(features(1))[0]) for _ in range(9)]
    assert counts == [0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert redo.steps == 9
    assert str(redo.report()).splitlines() == [
        "after 9 steps; the next check is in 3",
        "group  units  dormant  replaced",
        "0          6        1         3",
        "2          5        0         0",
    ]


def test_forwards_before_one_step_are_joined_and_eval_forwards_ignored() -> None:
    net, _, redo = make_run(tau=0.0, period=2)
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[0, 0] = 1.0
        net[0].bias.fill_(1.0)
        net[0].bias[0] = 0.0
    active, silent = torch.ones(2, 4), -torch.ones(2, 4)
    net(active)
    assert [units.tolist() for units in redo.step()] == [[], []]
    net(silent)
    net(active)
    with torch.no_grad():
        net(silent)
    net.eval()(silent)
    net.train()
    assert redo.step()[0].tolist() == []  # unit 0 was active in one of the two
    net(active)
    redo.step()
    net(silent)
    assert redo.step()[0].tolist() == [0]


def test_an_empty_batch_delays_the_check() -> None:
    _, _, redo = make_run(tau=0.0, period=2)
    redo.step(features(1))
    assert [len(units) for units in redo.step([torch.ones(0, 6), torch.ones(0, 5)])] == [0, 0]
    assert redo.report().next_check == 1
    assert [len(units) for units in redo.step(features(1))] == [1, 0]


@pytest.mark.parametrize("make", [torch.optim.Adam, gnt.AdamGnT, torch.optim.RMSprop])
def test_optimizer_state_is_reset_for_the_replaced_slices_only(make: type[torch.optim.Optimizer]) -> None:
    net = make_net()
    optimizer = make(net.parameters())  # type: ignore[call-arg]
    redo = gnt.ReDo(net, optimizer, tau=0.0, period=1)
    learn(net, optimizer, 0)
    key = "square_avg" if make is torch.optim.RMSprop else "exp_avg_sq"
    before = {name: optimizer.state[p][key].clone() for name, p in net.named_parameters()}
    redo.step(features(2))
    after = {name: optimizer.state[p][key] for name, p in net.named_parameters()}
    assert not after["0.weight"][:2].any()
    assert not after["0.bias"][:2].any()
    assert not after["2.weight"][:, :2].any()
    assert torch.equal(after["0.weight"][2:], before["0.weight"][2:])
    assert torch.equal(after["2.weight"][:, 2:], before["2.weight"][:, 2:])
    for name in ("2.bias", "4.weight", "4.bias"):
        assert torch.equal(after[name], before[name])


def test_traced_units_are_dormant_only_if_all_their_features_are() -> None:
    net = nn.Sequential(nn.Linear(4, 3), gnt.CReLU(), nn.Linear(6, 2))
    redo = gnt.ReDo(gnt.trace(net, torch.randn(1, 4)), tau=0.0, period=1)
    first = torch.tensor([[0.0, 0.0, 1.0, 0.0, 1.0, 0.0]])  # the second unit is active in its negative half
    assert redo.step([first, first])[0].tolist() == [0]
    assert not net[2].weight[:, [0, 3]].any()
    assert net[2].weight[:, [1, 2, 4, 5]].all()


def test_a_resumed_run_continues_bit_for_bit(tmp_path: Any) -> None:
    settings = {"tau": 0.6, "period": 3}
    net, optimizer, redo = make_run(**settings)
    for t in range(10):
        learn(net, optimizer, t)
        redo.step()
    torch.save([net.state_dict(), optimizer.state_dict(), redo.state_dict()], tmp_path / "state")
    expected: list[list[int]] = []
    for t in range(10, 20):
        learn(net, optimizer, t)
        expected += [units.tolist() for units in redo.step()]
    other, other_optimizer, resumed = make_run(1, **settings)
    for target, state in zip((other, other_optimizer, resumed), torch.load(tmp_path / "state"), strict=True):
        target.load_state_dict(state)
    actual: list[list[int]] = []
    for t in range(10, 20):
        learn(other, other_optimizer, t)
        actual += [units.tolist() for units in resumed.step()]
    assert any(expected)
    assert actual == expected
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))
    assert resumed.report() == redo.report()
    assert torch.equal(resumed.generator.get_state(), redo.generator.get_state())


def test_close_removes_the_hooks_and_steps_are_refused_afterwards() -> None:
    net, _, redo = make_run()
    redo.close()
    assert not any(module._forward_pre_hooks for module in net.modules())
    with pytest.raises(RuntimeError, match="is closed"):
        redo.step()
    assert redo.state_dict()["steps"] == 0


BAD_STEPS = [
    (RuntimeError, "no features of group '0', '2' since the last update", None),
    (ValueError, "features must hold one tensor for each of the 2 groups ('0', '2'), got 1", [torch.ones(3, 6)]),
    (ValueError, "features of group '2' must be what its consumer '4' reads", [torch.ones(3, 6), torch.ones(3, 6)]),
    (FloatingPointError, "features of group '2' are not finite", [torch.zeros(3, 6), torch.full((3, 5), torch.nan)]),
]


@pytest.mark.parametrize(("error", "message", "batch_features"), BAD_STEPS)
def test_a_refused_step_changes_nothing(error: type[Exception], message: str, batch_features: Any) -> None:
    net, _, redo = make_run(tau=0.1, period=1)
    before, state = copy.deepcopy(net.state_dict()), redo.state_dict()
    with pytest.raises(error, match=re.escape(message)):
        redo.step(batch_features)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert_same(redo.state_dict(), state)


def constructor(layers: Callable[[], Any] = make_net, optimizer: Any = None, **settings: Any) -> Callable[[], Any]:
    return lambda: gnt.ReDo(layers(), optimizer, **settings)


def lbfgs() -> gnt.ReDo:
    net = make_net()
    return gnt.ReDo(net, torch.optim.LBFGS(net.parameters()))


INVALID_ARGUMENTS = [
    (ValueError, "tau must be a finite number >= 0, got -0.1", constructor(tau=-0.1)),
    (ValueError, "tau must be a finite number >= 0, got nan", constructor(tau=float("nan"))),
    (ValueError, "period must be an integer >= 1, got 0", constructor(period=0)),
    (ValueError, "period must be an integer >= 1, got 2.0", constructor(period=2.0)),
    (ValueError, "init must be one of auto, default, xavier", constructor(init="he")),
    (TypeError, "generator must be a torch.Generator or None, got int", constructor(generator=3)),
    (TypeError, "the state of LBFGS cannot be reset per unit", lbfgs),
    (ValueError, "no hidden layer", constructor(lambda: [nn.Linear(3, 3)])),
    (TypeError, "optimizer must be a torch.optim.Optimizer or None, got str", constructor(optimizer="adam")),
    (
        ValueError,
        "optimizer SGD does not hold 0.weight",
        constructor(optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)),
    ),
]


@pytest.mark.parametrize(("error", "message", "build"), INVALID_ARGUMENTS)
def test_invalid_arguments_are_refused(error: type[Exception], message: str, build: Callable[[], Any]) -> None:
    with pytest.raises(error, match=re.escape(message)):
        build()


REDO = make_run(period=2)[2]
INVALID_STATES = [
    ([], "state_dict is not one of ReDo.state_dict(): it must hold dormant, engine, steps, version, got list"),
    ({**REDO.state_dict(), "steps": 1.5}, "state_dict holds steps 1.5"),
    ({**REDO.state_dict(), "dormant": [1]}, "state_dict must hold 2 counts of dormant units, got [1]"),
    ({**REDO.state_dict(), "version": 2}, "state_dict has version 2"),
    ({**REDO.state_dict(), "engine": {}}, "state_dict is not one of GnT.state_dict()"),
    (gnt.ReDo(make_net()[:3]).state_dict(), "state_dict must hold 2 counts of dormant units, got [0]"),
]


@pytest.mark.parametrize(("state", "message"), INVALID_STATES)
def test_refused_states_change_nothing(state: Any, message: str) -> None:
    before = copy.deepcopy(REDO.state_dict())
    with pytest.raises(ValueError, match=re.escape(message)):
        REDO.load_state_dict(state)
    assert_same(REDO.state_dict(), before)


def test_groups_of_an_ensemble_are_refused() -> None:
    ensemble = gnt.Ensemble(make_net, [1, 2])
    assert ensemble.gnt is not None
    with pytest.raises(ValueError, match="ReDo compares the units of a layer, and the groups of an ensemble hold"):
        gnt.ReDo(ensemble.gnt.groups, ensemble.opt)
