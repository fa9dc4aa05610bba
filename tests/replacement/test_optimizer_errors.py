"""Optimizers whose state cannot be reset per unit are refused, with their name and what to do; and what does help."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt import GnT, register_state_reset
from gnt.replacement.optimizer_state import STATE_RESETS


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


class Sign(Optimizer):
    """Steps by the sign of a running average: unknown to gnt."""

    def __init__(self, params, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "start": 0.5})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                average = self.state[param].setdefault("average", torch.full_like(param, group["start"]))
                average.lerp_(param.grad, 0.1)
                param.sub_(group["lr"] * average.sign())


class SignWithReset(Sign):
    """The same, with a reset of its own."""

    def __init__(self, params) -> None:
        super().__init__(params)
        self.calls: list[tuple[Tensor, int, list[int], int]] = []

    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        self.calls.append((param, dim, index.tolist(), groups))


class AdamWith(torch.optim.Adam):
    """Adam that keeps something more for each parameter."""

    def __init__(self, params, key: str, make: Callable[[Tensor], object]) -> None:
        super().__init__(params)
        self.key, self.make = key, make

    def step(self, closure=None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param][self.key] = self.make(param)


WHAT_TO_DO = r"reset_units\(param, dim, index\).*gnt\.register_state_reset.*optimizer=None"
REFUSED = {
    "LBFGS": (lambda net: torch.optim.LBFGS(net.parameters()), TypeError, f"LBFGS .*flat vectors.*{WHAT_TO_DO}"),
    "Adafactor": (
        lambda net: torch.optim.Adafactor(net.parameters()),
        TypeError,
        f"Adafactor .*factored.*{WHAT_TO_DO}",
    ),
    "SparseAdam": (
        lambda net: torch.optim.SparseAdam(net.parameters()),
        TypeError,
        f"SparseAdam .*sparse.*{WHAT_TO_DO}",
    ),
    "unknown": (
        lambda net: Sign(net.parameters()),
        TypeError,
        f"state of Sign .*does not know.*Known are AdamGnT, ASGD, AdaBelief, Adadelta.*{WHAT_TO_DO}",
    ),
    "a name": (lambda net: "adam", TypeError, r"optimizer must be a torch\.optim\.Optimizer or None, got str"),
    "a class": (lambda net: torch.optim.Adam, TypeError, r"must be a torch\.optim\.Optimizer or None, got type"),
    "of a copy": (
        lambda net: torch.optim.Adam(copy.deepcopy(net).parameters()),
        ValueError,
        r"Adam does not hold 0\.weight, 0\.bias, 2\.weight: .*copied network",
    ),
    "of some parameters": (
        lambda net: torch.optim.SGD([net[0].weight, net[2].weight], lr=0.1),
        ValueError,
        r"SGD does not hold 0\.bias: give it",
    ),
}


@pytest.mark.parametrize(("build", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_an_optimizer_is_refused_at_construction(build, error, message):
    net = network()
    with pytest.raises(error, match=message):
        GnT(net, build(net))
    engine = GnT(net)
    with pytest.raises(error, match=message):
        engine.optimizer = build(net)
    assert engine.optimizer is None


# state that shows only when it is there, after the first step
UNKNOWN_STATE = {
    "a list": ("parts", lambda param: [torch.ones_like(param)], r"AdamWith keeps state 'parts' \(list\)"),
    "a new key": ("trace", torch.ones_like, r"AdamWith keeps state 'trace' of shape \(5, 3\)"),
    "one for each row": ("rows", lambda param: torch.ones(len(param)), r"AdamWith keeps state 'rows' of shape \(5,\)"),
    "a known key of another shape": (
        "exp_avg_sq",
        lambda param: torch.ones(len(param), 1, 1),
        r"AdamWith keeps state 'exp_avg_sq' of shape \(5, 1, 1\)",
    ),
}


@pytest.mark.parametrize(("key", "make", "message"), UNKNOWN_STATE.values(), ids=UNKNOWN_STATE)
def test_unknown_state_is_refused_before_anything_is_changed(key, make, message):
    net = network()
    optimizer = AdamWith(net.parameters(), key, make)
    engine = GnT(net, optimizer, maturity_threshold=0, replacement_rate=1.0)
    net(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    engine.update()
    units = engine.select()
    before = copy.deepcopy([net.state_dict(), optimizer.state_dict(), engine.state_dict()])
    with pytest.raises(TypeError, match=f"{message}.*{WHAT_TO_DO}"):
        engine.replace(units)
    after = [net.state_dict(), optimizer.state_dict(), engine.state_dict()]
    assert torch.equal(engine.groups[0].state.age, torch.ones(5))
    for a, b in zip(before, after, strict=True):
        assert str(a) == str(b)
    with pytest.raises(TypeError, match=message):  # by now it shows at construction
        GnT(net, optimizer)


def test_unknown_state_is_told_at_the_first_step():
    net = network()
    optimizer = AdamWith(net.parameters(), "trace", torch.ones_like)
    engine = GnT(net, optimizer)  # none due for a hundred steps
    net(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    with pytest.raises(TypeError, match="AdamWith keeps state 'trace'"):
        engine.step()
    assert engine.updates == 0


@pytest.fixture
def registry():
    """What a test registers is forgotten after it."""
    known = dict(STATE_RESETS)
    yield STATE_RESETS
    STATE_RESETS.clear()
    STATE_RESETS.update(known)


@pytest.mark.parametrize(("birth", "expected"), [(0.0, 0.0), (0.25, 0.25), ("start", 0.5)])
@pytest.mark.usefixtures("registry")
def test_a_registered_optimizer_works(birth, expected):
    """Its subclasses too. A value at birth may be an option's name; keys that no state has do no harm."""
    register_state_reset(Sign, {"average": birth, "never": 1.0})

    class Heir(Sign):
        pass

    for kind in (Sign, Heir):
        net = network()
        optimizer = kind(net.parameters())
        engine = GnT(net, optimizer)
        net(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        engine.replace([torch.tensor([3])])
        state = {name: optimizer.state[param]["average"] for name, param in net.named_parameters()}
        for mine in (state["0.weight"][3], state["0.bias"][3], state["2.weight"][:, 3]):
            assert torch.all(mine == expected)
        for others in (state["0.weight"][:3], state["0.bias"][:3], state["2.weight"][:, :3], state["2.bias"]):
            assert not torch.any(others == expected)


@pytest.mark.usefixtures("registry")
def test_registered_state_of_a_subclass_takes_the_place_of_its_parents():
    register_state_reset(AdamWith, {**STATE_RESETS[torch.optim.Adam], "trace": 7.0})
    net = network()
    optimizer = AdamWith(net.parameters(), "trace", torch.zeros_like)
    engine = GnT(net, optimizer)
    net(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    engine.replace([torch.tensor([3])])
    assert torch.all(optimizer.state[net[0].weight]["trace"][3] == 7.0)
    assert not optimizer.state[net[0].weight]["exp_avg"][3].any()


@pytest.mark.parametrize(
    ("optimizer", "resets", "message"),
    [
        (Sign, {"average": None}, "initial value of 'average' must be a number or the name of an option, got None"),
        (Sign, {"average": torch.zeros(2)}, "initial value of 'average'"),
        (nn.Linear, {}, "must be a subclass of torch.optim.Optimizer, got <class .*Linear"),
        ("Sign", {}, "must be a subclass of torch.optim.Optimizer, got 'Sign'"),
    ],
)
def test_what_cannot_be_registered(optimizer, resets, message):
    known = dict(STATE_RESETS)
    with pytest.raises(TypeError, match=message):
        register_state_reset(optimizer, resets)
    assert known == STATE_RESETS


def test_a_method_of_its_own_is_asked():
    """Rows of the producer, columns of the consumer; for a grouped convolution the number of its groups."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4), nn.Tanh(), nn.Conv1d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(12, 1)
    )
    optimizer = SignWithReset(net.parameters())
    engine = GnT(net, optimizer, activation="tanh")
    net(torch.randn(4, 2, 3)).square().mean().backward()
    optimizer.step()
    engine.replace([torch.tensor([2, 1]), torch.tensor([1])])
    names = {id(param): name for name, param in net.named_parameters()}
    calls = [(names[id(param)], dim, index, groups) for param, dim, index, groups in optimizer.calls]
    assert sorted(calls) == [
        ("0.bias", 0, [2, 1], 1),
        ("0.weight", 0, [2, 1], 1),
        ("1.bias", 0, [2, 1], 1),
        ("1.weight", 0, [2, 1], 1),
        ("3.bias", 0, [1], 1),
        ("3.weight", 0, [1], 1),
        ("3.weight", 1, [2, 1], 2),
        ("5.weight", 1, [3, 4, 5], 1),
    ]
