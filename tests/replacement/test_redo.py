"""ReDo: whom it replaces and when, going on from a saved state, what it refuses."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gnt


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def learn(some: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    some(torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
    optimizer.step()


def with_redo(seed: int = 0, **settings: Any) -> tuple[nn.Sequential, torch.optim.Optimizer, gnt.ReDo]:
    some = net(seed)
    optimizer = torch.optim.Adam(some.parameters(), lr=0.01)
    return some, optimizer, gnt.ReDo(some, optimizer, **settings)


def same(state: Any, other: Any) -> bool:
    if isinstance(state, dict):
        return state.keys() == other.keys() and all(same(state[key], other[key]) for key in state)
    if isinstance(state, list):
        return len(state) == len(other) and all(same(a, b) for a, b in zip(state, other, strict=True))
    return torch.equal(state, other) if isinstance(state, torch.Tensor) else bool(state == other)


def features(silent: int = 0) -> list[torch.Tensor]:
    """Features of which the first ``silent`` units of the first layer are 0, and all others 1."""
    first = torch.ones(3, 6)
    first[:, :silent] = 0.0
    return [first, torch.ones(3, 5)]


@pytest.mark.parametrize("silent", [0, 2, 6])
def test_tau_0_replaces_the_silent_and_nobody_else(silent: int) -> None:
    some, _, redo = with_redo(tau=0.0, period=1)
    before = copy.deepcopy(some.state_dict())
    replaced = redo.step(features(silent))
    assert [units.tolist() for units in replaced] == [list(range(silent)), []]
    after = some.state_dict()
    assert not after["2.weight"][:, :silent].any()
    assert torch.equal(after["2.weight"][:, silent:], before["2.weight"][:, silent:])
    assert not (after["0.weight"][:silent] == before["0.weight"][:silent]).any()
    assert torch.equal(after["0.weight"][silent:], before["0.weight"][silent:])
    assert not after["0.bias"][:silent].any()
    assert after["0.weight"].abs().max() <= 0.5  # 1 / sqrt(4), torch's own
    for name in ("2.bias", "4.weight", "4.bias"):  # no mean is moved
        assert torch.equal(after[name], before[name])


def test_tau_is_a_share_of_the_layers_mean_and_belongs_to_the_dormant() -> None:
    _, _, redo = with_redo(tau=0.5, period=1)
    first = torch.tensor([[0.5, -0.5, 1.0, 1.0, 1.0, 2.0], [0.5, -0.5, 1.0, -1.0, 1.0, 2.0]])  # the mean of |h| is 1
    assert redo.step([first, torch.ones(2, 5)])[0].tolist() == [0, 1]


def test_it_acts_every_period_steps_on_the_latest_batch() -> None:
    _, _, redo = with_redo(tau=0.0, period=3)
    found = [len(redo.step(features(1))[0]) for _ in range(9)]
    assert found == [0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert redo.steps == 9
    assert str(redo.report()).splitlines() == [
        "after 9 steps; the next check is in 3",
        "group  units  dormant  replaced",
        "0          6        1         3",
        "2          5        0         0",
    ]


def test_several_forwards_of_one_step_are_one_batch_and_eval_leaves_no_trace() -> None:
    some, _, redo = with_redo(tau=0.0, period=2)
    with torch.no_grad():
        some[0].weight.zero_()
        some[0].weight[0, 0] = 1.0
        some[0].bias.fill_(1.0)
        some[0].bias[0] = 0.0
    active, silent = torch.ones(2, 4), -torch.ones(2, 4)
    some(active)
    assert [units.tolist() for units in redo.step()] == [[], []]
    some(silent)
    some(active)
    with torch.no_grad():
        some(silent)
    some.eval()(silent)
    some.train()
    assert redo.step()[0].tolist() == []  # unit 0 was active in one of the two
    some(active)
    redo.step()
    some(silent)
    assert redo.step()[0].tolist() == [0]


def test_an_empty_batch_puts_the_check_off() -> None:
    _, _, redo = with_redo(tau=0.0, period=2)
    redo.step(features(1))
    assert [len(units) for units in redo.step([torch.ones(0, 6), torch.ones(0, 5)])] == [0, 0]
    assert redo.report().next_check == 1
    assert [len(units) for units in redo.step(features(1))] == [1, 0]


@pytest.mark.parametrize("make", [torch.optim.Adam, gnt.AdamGnT, torch.optim.RMSprop])
def test_the_optimizer_forgets_the_replaced_slices_and_nothing_else(make: type[torch.optim.Optimizer]) -> None:
    some = net()
    optimizer = make(some.parameters())  # type: ignore[call-arg]
    redo = gnt.ReDo(some, optimizer, tau=0.0, period=1)
    learn(some, optimizer, 0)
    key = "square_avg" if make is torch.optim.RMSprop else "exp_avg_sq"
    before = {name: optimizer.state[p][key].clone() for name, p in some.named_parameters()}
    redo.step(features(2))
    after = {name: optimizer.state[p][key] for name, p in some.named_parameters()}
    assert not after["0.weight"][:2].any()
    assert not after["0.bias"][:2].any()
    assert not after["2.weight"][:, :2].any()
    assert torch.equal(after["0.weight"][2:], before["0.weight"][2:])
    assert torch.equal(after["2.weight"][:, 2:], before["2.weight"][:, 2:])
    for name in ("2.bias", "4.weight", "4.bias"):
        assert torch.equal(after[name], before[name])


def test_units_that_trace_finds_are_dormant_if_they_are_so_to_every_reader() -> None:
    some = nn.Sequential(nn.Linear(4, 3), gnt.CReLU(), nn.Linear(6, 2))
    redo = gnt.ReDo(gnt.trace(some, torch.randn(1, 4)), tau=0.0, period=1)
    first = torch.tensor([[0.0, 0.0, 1.0, 0.0, 1.0, 0.0]])  # the second unit is only ever negative
    assert redo.step([first, first])[0].tolist() == [0]
    assert not some[2].weight[:, [0, 3]].any()
    assert some[2].weight[:, [1, 2, 4, 5]].all()


def test_it_goes_on_bit_by_bit(tmp_path: Any) -> None:
    settings = {"tau": 0.6, "period": 3}
    some, optimizer, redo = with_redo(**settings)
    for t in range(10):
        learn(some, optimizer, t)
        redo.step()
    torch.save([some.state_dict(), optimizer.state_dict(), redo.state_dict()], tmp_path / "state")
    went: list[list[int]] = []
    for t in range(10, 20):
        learn(some, optimizer, t)
        went += [units.tolist() for units in redo.step()]
    other, other_optimizer, resumed = with_redo(1, **settings)
    for target, state in zip((other, other_optimizer, resumed), torch.load(tmp_path / "state"), strict=True):
        target.load_state_dict(state)
    again: list[list[int]] = []
    for t in range(10, 20):
        learn(other, other_optimizer, t)
        again += [units.tolist() for units in resumed.step()]
    assert any(went)
    assert again == went
    assert all(torch.equal(p, q) for p, q in zip(some.parameters(), other.parameters(), strict=True))
    assert resumed.report() == redo.report()
    assert torch.equal(resumed.generator.get_state(), redo.generator.get_state())


def test_a_closed_one_leaves_no_hooks_and_refuses_to_step() -> None:
    some, _, redo = with_redo()
    redo.close()
    assert not any(module._forward_pre_hooks for module in some.modules())
    with pytest.raises(RuntimeError, match="is closed"):
        redo.step()
    assert redo.state_dict()["steps"] == 0


BAD_STEPS = [
    (RuntimeError, "no features of group '0', '2' since the last update", None),
    (ValueError, "features must hold one tensor for each of the 2 groups ('0', '2'), got 1", [torch.ones(3, 6)]),
    (ValueError, "features of group '2' must be what its consumer '4' reads", [torch.ones(3, 6), torch.ones(3, 6)]),
    (FloatingPointError, "features of group '2' are not finite", [torch.zeros(3, 6), torch.full((3, 5), torch.nan)]),
]


@pytest.mark.parametrize(("error", "message", "given"), BAD_STEPS)
def test_a_step_that_is_refused_changes_nothing(error: type[Exception], message: str, given: Any) -> None:
    some, _, redo = with_redo(tau=0.1, period=1)
    before, state = copy.deepcopy(some.state_dict()), redo.state_dict()
    with pytest.raises(error, match=re.escape(message)):
        redo.step(given)
    torch.testing.assert_close(some.state_dict(), before, rtol=0, atol=0)
    assert same(redo.state_dict(), state)


def built(layers: Callable[[], Any] = net, optimizer: Any = None, **settings: Any) -> Callable[[], Any]:
    return lambda: gnt.ReDo(layers(), optimizer, **settings)


def lbfgs() -> gnt.ReDo:
    some = net()
    return gnt.ReDo(some, torch.optim.LBFGS(some.parameters()))


REFUSED = [
    (ValueError, "tau must be a finite number >= 0, got -0.1", built(tau=-0.1)),
    (ValueError, "tau must be a finite number >= 0, got nan", built(tau=float("nan"))),
    (ValueError, "period must be an integer >= 1, got 0", built(period=0)),
    (ValueError, "period must be an integer >= 1, got 2.0", built(period=2.0)),
    (ValueError, "init must be one of default, xavier, lecun, kaiming, got 'normal'", built(init="normal")),
    (TypeError, "generator must be a torch.Generator or None, got int", built(generator=3)),
    (TypeError, "the state of LBFGS cannot be reset per unit", lbfgs),
    (ValueError, "no hidden layer", built(lambda: [nn.Linear(3, 3)])),
    (TypeError, "optimizer must be a torch.optim.Optimizer or None, got str", built(optimizer="adam")),
    (
        ValueError,
        "optimizer SGD does not hold 0.weight",
        built(optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)),
    ),
]


@pytest.mark.parametrize(("error", "message", "build"), REFUSED)
def test_what_is_refused(error: type[Exception], message: str, build: Callable[[], Any]) -> None:
    with pytest.raises(error, match=re.escape(message)):
        build()


REDO = with_redo(period=2)[2]
STATES = [
    ([], "state_dict is not one of ReDo.state_dict(): it must hold dormant, engine, steps, version, got list"),
    ({**REDO.state_dict(), "steps": 1.5}, "state_dict holds steps 1.5"),
    ({**REDO.state_dict(), "dormant": [1]}, "state_dict must hold 2 counts of dormant units, got [1]"),
    ({**REDO.state_dict(), "version": 2}, "state_dict has version 2"),
    ({**REDO.state_dict(), "engine": {}}, "state_dict is not one of GnT.state_dict()"),
    (gnt.ReDo(net()[:3]).state_dict(), "state_dict must hold 2 counts of dormant units, got [0]"),
]


@pytest.mark.parametrize(("state", "message"), STATES)
def test_states_that_are_refused_change_nothing(state: Any, message: str) -> None:
    before = copy.deepcopy(REDO.state_dict())
    with pytest.raises(ValueError, match=re.escape(message)):
        REDO.load_state_dict(state)
    assert same(REDO.state_dict(), before)
