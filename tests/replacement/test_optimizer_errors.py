"""Optimizers whose state cannot be reset per unit are refused with the remedies named, and the remedies work."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt import AdamGnT, Backprop, GnT, register_state_reset, trace
from gnt.replacement.optimizer_state import STATE_RESETS


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


class Sign(Optimizer):
    """An optimizer unknown to gnt: steps by the sign of a running average of the gradient."""

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
    """The same with a ``reset_units`` method."""

    def __init__(self, params) -> None:
        super().__init__(params)
        self.calls: list[tuple[Tensor, int, list[int], int]] = []

    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        self.calls.append((param, dim, index.tolist(), groups))


class AdamWith(torch.optim.Adam):
    """Adam with an additional state entry for each parameter."""

    def __init__(self, params, key: str, make: Callable[[Tensor], object]) -> None:
        super().__init__(params)
        self.key, self.make = key, make

    def step(self, closure=None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param][self.key] = self.make(param)


REMEDIES = r"reset_units\(param, dim, index\).*gnt\.register_state_reset.*optimizer=None"
REFUSED_OPTIMIZERS = {
    "LBFGS": (lambda net: torch.optim.LBFGS(net.parameters()), TypeError, f"LBFGS .*flat vectors.*{REMEDIES}"),
    "Adafactor": (
        lambda net: torch.optim.Adafactor(net.parameters()),
        TypeError,
        f"Adafactor .*factored.*{REMEDIES}",
    ),
    "SparseAdam": (
        lambda net: torch.optim.SparseAdam(net.parameters()),
        TypeError,
        f"SparseAdam .*sparse.*{REMEDIES}",
    ),
    "unknown": (
        lambda net: Sign(net.parameters()),
        TypeError,
        f"state of Sign .*does not know.*Known are ASGD, .*AdamGnT, .*bitsandbytes, .*{REMEDIES}",
    ),
    "string": (lambda net: "adam", TypeError, r"optimizer must be a torch\.optim\.Optimizer or None, got str"),
    "class": (lambda net: torch.optim.Adam, TypeError, r"must be a torch\.optim\.Optimizer or None, got type"),
    "parameters of a copied network": (
        lambda net: torch.optim.Adam(copy.deepcopy(net).parameters()),
        ValueError,
        r"Adam does not hold 0\.weight, 0\.bias, 2\.weight: .*copied network",
    ),
    "missing parameters": (
        lambda net: torch.optim.SGD([net[0].weight, net[2].weight], lr=0.1),
        ValueError,
        r"SGD does not hold 0\.bias: give it",
    ),
}


@pytest.mark.parametrize(("build", "error", "message"), REFUSED_OPTIMIZERS.values(), ids=REFUSED_OPTIMIZERS)
def test_unsupported_optimizers_are_refused_at_construction(build, error, message):
    net = network()
    with pytest.raises(error, match=message):
        GnT(net, build(net))
    engine = GnT(net)
    with pytest.raises(error, match=message):
        engine.optimizer = build(net)
    assert engine.optimizer is None


# state entries that exist only after the first step
UNKNOWN_STATE = {
    "list": ("parts", lambda param: [torch.ones_like(param)], r"AdamWith keeps state 'parts' \(list\)"),
    "unknown key": ("trace", torch.ones_like, r"AdamWith keeps state 'trace' of shape \(5, 3\)"),
    "one value per row": ("rows", lambda param: torch.ones(len(param)), r"AdamWith keeps state 'rows' of shape \(5,\)"),
    "known key of another shape": (
        "exp_avg_sq",
        lambda param: torch.ones(len(param), 1, 1),
        r"AdamWith keeps state 'exp_avg_sq' of shape \(5, 1, 1\)",
    ),
}


@pytest.mark.parametrize(("key", "make", "message"), UNKNOWN_STATE.values(), ids=UNKNOWN_STATE)
def test_unknown_state_is_refused_before_anything_changes(key, make, message):
    net = network()
    optimizer = AdamWith(net.parameters(), key, make)
    engine = GnT(net, optimizer, maturity_threshold=0, replacement_rate=1.0)
    net(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    engine.update()
    units = engine.select()
    before = copy.deepcopy([net.state_dict(), optimizer.state_dict(), engine.state_dict()])
    with pytest.raises(TypeError, match=f"{message}.*{REMEDIES}"):
        engine.replace(units)
    after = [net.state_dict(), optimizer.state_dict(), engine.state_dict()]
    assert torch.equal(engine.groups[0].state.age, torch.ones(5))
    for a, b in zip(before, after, strict=True):
        assert str(a) == str(b)
    with pytest.raises(TypeError, match=message):  # the state exists now, so construction fails too
        GnT(net, optimizer)


def test_unknown_state_is_refused_in_the_first_step():
    net = network()
    optimizer = AdamWith(net.parameters(), "trace", torch.ones_like)
    engine = GnT(net, optimizer)  # no unit is due in the first steps
    net(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    with pytest.raises(TypeError, match="AdamWith keeps state 'trace'"):
        engine.step()
    assert engine.updates == 0


@pytest.fixture
def registry():
    """Restore the registered resets after the test."""
    known = dict(STATE_RESETS)
    yield STATE_RESETS
    STATE_RESETS.clear()
    STATE_RESETS.update(known)


@pytest.mark.parametrize(("initial", "expected"), [(0.0, 0.0), (0.25, 0.25), ("start", 0.5)])
@pytest.mark.usefixtures("registry")
def test_state_of_a_registered_optimizer_is_reset_to_its_initial_value(initial, expected):
    """Also for subclasses. An initial value may be the name of an option; unused keys are ignored."""
    register_state_reset(Sign, {"average": initial, "never": 1.0})

    class SubclassOfSign(Sign):
        pass

    for kind in (Sign, SubclassOfSign):
        net = network()
        optimizer = kind(net.parameters())
        engine = GnT(net, optimizer)
        net(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        engine.replace([torch.tensor([3])])
        state = {name: optimizer.state[param]["average"] for name, param in net.named_parameters()}
        for replaced in (state["0.weight"][3], state["0.bias"][3], state["2.weight"][:, 3]):
            assert torch.all(replaced == expected)
        for other in (state["0.weight"][:3], state["0.bias"][:3], state["2.weight"][:, :3], state["2.bias"]):
            assert not torch.any(other == expected)


@pytest.mark.usefixtures("registry")
def test_resets_registered_for_a_subclass_override_its_parents():
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
        (torch.optim.SGD([torch.ones(1)]), {}, "of torch.optim.Optimizer, got SGD, an optimizer; pass its class"),
        (Sign, {"average": float("nan")}, "initial value of 'average' must be a number .* got nan"),
        (Sign, {0: 1.0}, "keys of resets must be names of state keys, got 0"),
    ],
)
def test_invalid_registrations_are_refused_and_change_nothing(optimizer, resets, message):
    known = dict(STATE_RESETS)
    with pytest.raises((TypeError, ValueError), match=message):
        register_state_reset(optimizer, resets)
    assert known == STATE_RESETS


def test_reset_units_of_the_optimizer_is_called_for_every_slice():
    """Rows of the producer and columns of the consumer; ``groups`` is passed for a grouped convolution."""
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


def test_units_that_reset_units_cannot_address_are_refused_at_construction():
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm((2, 3, 8)), nn.ReLU(), nn.Linear(8, 2))
    GnT(net, torch.optim.Adam(net.parameters()))
    with pytest.raises(TypeError, match=r"dimension 2 of 1\.weight, and reset_units of AdamGnT"):
        GnT(net, AdamGnT(net.parameters()))


@pytest.mark.usefixtures("registry")
def test_an_initial_value_naming_no_option_is_refused_at_construction():
    class Signum(torch.optim.SGD):
        pass

    net = network()
    register_state_reset(Signum, {"momentum_buffer": "nonsense"})
    with pytest.raises(TypeError, match="Signum has no number 'nonsense'"):
        GnT(net, Signum(net.parameters()))
    with pytest.raises(TypeError, match="resets must be a mapping"):
        register_state_reset(Signum, None)


def test_backprop_refuses_an_optimizer_of_another_network():
    with pytest.raises(ValueError, match="SGD holds no parameter of net"):
        Backprop(network(), opt=torch.optim.SGD(network().parameters()))


def test_reset_units_is_asked_about_a_dimension_beyond_rows_and_columns():
    class RowsAndColumns(SignWithReset):
        def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
            if dim > 1:
                raise ValueError(f"no dim {dim}")

    net = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm((4, 4, 6)), nn.ReLU(), nn.Linear(6, 2))
    groups = trace(net, torch.randn(2, 4, 4, 3))
    for make, why in ((RowsAndColumns, "no dim 2"), (AdamGnT, "dim=2 for a parameter of shape")):
        with pytest.raises(TypeError, match=f"dimension 2 of 1.weight, and reset_units of .* does not take it: {why}"):
            GnT(groups, make(net.parameters()))
    GnT(groups, SignWithReset(net.parameters()))


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, torch.optim.Adam])
@pytest.mark.parametrize("units", [[1], [1, 3]])
def test_a_parameter_group_that_was_removed_is_found_before_a_replacement(kind, units):
    net = network()
    weights, biases = ([p for p in net.parameters() if (p.ndim > 1) is wanted] for wanted in (True, False))
    optimizer = kind([{"params": weights}, {"params": biases}], lr=0.01)
    engine = GnT(net, optimizer)
    net(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    del optimizer.param_groups[1]
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(
        ValueError, match=rf"optimizer {kind.__name__} does not hold 0.bias: give it .* follow=\[OTHER\]"
    ):
        engine.replace([units])
    assert all(map(torch.equal, before.values(), net.state_dict().values()))
