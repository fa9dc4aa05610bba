"""What a running engine refuses: an error that names the group and what is allowed, and nothing changed by a bit."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import gnt
from gnt.importance import MEASURES
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, conv_net, full_state, mlp, train

NAN, INF = float("nan"), float("inf")


def started(net: nn.Module | None = None, *shape: int, **settings) -> tuple:
    """A network with an optimizer and an engine that have seen a few steps."""
    net = net or mlp()
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    engine = gnt.GnT(net, opt, generator=torch.Generator().manual_seed(1), **{**FREQUENT_REPLACEMENT, **settings})
    train(net, opt, engine, range(6), *shape)
    return net, opt, engine


def refused(run: tuple, call, error: type[Exception], message: str) -> None:
    """``call`` raises, and the run is as before."""
    before = full_state(*run)
    with pytest.raises(error, match=message):
        call()
    assert_same(full_state(*run), before)


def ones(*shapes: tuple[int, ...], **options) -> list[Tensor]:
    return [torch.ones(shape, **options) for shape in shapes]


good = ones((3, 8), (3, 6))
BAD_FEATURES = [
    (good[0], TypeError, "a sequence of 2 tensors, one for each group, got Tensor"),
    (5, TypeError, "a sequence of 2 tensors, one for each group, got int"),
    ([], ValueError, "one tensor for each of the 2 groups ('0', '2'), got 0"),
    (good[:1], ValueError, "for each of the 2 groups ('0', '2'), got 1"),
    ([*good, good[0]], ValueError, "for each of the 2 groups ('0', '2'), got 3"),
    ([None, None], TypeError, "features of group '0' must be a tensor, got None"),
    ([3.0, good[1]], TypeError, "features of group '0' must be a tensor, got float"),
    ([good[0], "ab"], TypeError, "features of group '2' must be a tensor, got str"),
    ([good[0], []], RuntimeError, "no features of group '2'"),
    ([good[0], [good[1], 3]], TypeError, "features of group '2' must be a tensor, got int"),
    (good[::-1], ValueError, "group '0' must be what its consumer '2' reads, of shape (..., 8), got (3, 6)"),
    (ones((3, 8), (6, 3)), ValueError, "group '2' must be what its consumer '4' reads, of shape (..., 6), got (6, 3)"),
    (ones((3, 8), ()), ValueError, "of shape (..., 6), got ()"),
    ([good[0], ones((0, 6))[0]], ValueError, "features of group '2'"),
    (ones((3, 8), (3, 6), dtype=torch.float64), ValueError, "no wider than torch.float32, got torch.float64"),
    (ones((3, 8), (3, 6), dtype=torch.int64), ValueError, "group '0' must be floating point and no wider"),
    (ones((3, 8), (3, 6), dtype=torch.complex64), ValueError, "got torch.complex64"),
    (ones((3, 8), (3, 6), device="meta"), ValueError, "features of group '0' must be on cpu, got meta"),
]


@pytest.mark.parametrize(("features", "error", "message"), BAD_FEATURES)
@pytest.mark.parametrize("method", ["update", "step"])
def test_features_that_no_consumer_reads(features, error, message, method):
    run = started()
    refused(run, lambda: getattr(run[2], method)(features), error, re.escape(message))
    run[2].step(good)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 4, 3, 3), "(batch, 5, size, size), got (2, 4, 3, 3)"), ((2, 5, 9), "got (2, 5, 9)"), ((5,), "got (5,)")],
)
def test_features_that_no_convolution_reads(shape, message):
    run = started(conv_net(), 1, 8, 8)
    refused(run, lambda: run[2].step(ones(shape, (2, 16), (2, 6))), ValueError, re.escape(message))
    run[2].step(ones((2, 5, 6, 6), (2, 16), (2, 6)))


def test_features_of_a_convolution_that_a_linear_layer_reads_along_its_pixels():
    net = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Linear(16, 2))
    engine = gnt.GnT(net)  # the sizes alone do not tell
    net(torch.randn(2, 3, 16))
    message = "group '0' must be what its consumer '2' reads, of shape (batch, 16), got (2, 8, 16)"
    refused((net, None, engine), engine.step, ValueError, re.escape(message))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("utility", MEASURES)
def test_features_that_are_not_finite(utility, value):
    run = started(utility=utility)
    bad = [good[0], good[1].clone()]
    bad[1][2, 4] = value
    message = "features or weights of group '2' are not finite"
    refused(run, lambda: run[2].step(bad), FloatingPointError, message)
    refused(run, lambda: run[2].update(bad), FloatingPointError, message)
    run[2].step(good)


@pytest.mark.parametrize(("layer", "utility"), [(4, "contribution"), (4, "weight"), (2, "adaptation"), (0, "weight")])
def test_weights_that_are_not_finite(layer, utility):
    run = started(utility=utility)
    with torch.no_grad():
        run[0][layer].weight[1, 3] = NAN
    group = "0" if layer == 0 else "2"
    run[0](torch.ones(2, 4))
    refused(run, run[2].step, FloatingPointError, f"features or weights of group '{group}' are not finite")


def utilities(engine) -> list[Tensor]:
    return [t.clone() for g in engine.groups for t in (g.state.corrected_utility, g.state.corrected_mean_feature)]


def advance(engine, mean, utility, *, checked: bool) -> None:
    """An update as on an accelerator, where it is not checked on the host whether features are finite."""
    shared = engine.evaluator.parts[0].shared
    for i, state in enumerate(shared.states):
        shared.means[i].copy_(mean if i == 0 else torch.ones(state.num_units))
        shared.utilities[i].copy_(utility if i == 0 else torch.ones(state.num_units))
    shared.advance(checked=checked)


@pytest.mark.parametrize("utility", ["contribution", "random"])
def test_on_a_device_that_is_not_asked_a_nan_is_counted_and_decides_nothing(utility):
    _, _, engine = started(utility=utility)
    state, other = engine.groups[0].state, engine.groups[1].state
    state.replace(torch.tensor([5]), all_eligible=False)  # a unit whose averages contain few updates
    engine.update(good)
    before, age, healthy = utilities(engine)[:2], state.age, other.mean_feature.clone()
    bad = torch.full((8,), NAN)
    advance(engine, bad, bad, checked=False)
    assert torch.equal(state.age, age + 1)
    assert state.nonfinite.item() == 1
    assert state.state_dict()["nonfinite"].item() == 1
    assert [group.nonfinite for group in engine.report().groups] == [1, 0]
    torch.testing.assert_close(utilities(engine)[:2], before)
    torch.testing.assert_close(other.mean_feature, torch.lerp(healthy, torch.ones(6), 0.1))
    assert torch.equal(state.corrected_utility.argsort(), before[0].argsort())
    advance(engine, torch.ones(8), torch.ones(8), checked=False)
    assert state.nonfinite.item() == 1
    assert torch.isfinite(state.corrected_utility).all()


def test_on_a_device_that_is_not_asked_finite_updates_are_as_on_the_cpu():
    engines = [started()[2] for _ in range(2)]
    mean, worth = torch.rand(8), torch.rand(8)
    for engine, asked in zip(engines, (True, False), strict=True):
        advance(engine, mean, worth, checked=asked)
    for mine, theirs in zip(engines[0].groups, engines[1].groups, strict=True):
        assert_same(mine.state.state_dict(), theirs.state.state_dict())


def test_a_nan_wakes_no_dead_unit():
    _, _, engine = started(replacement_rate=0.0)
    state = engine.groups[0].state
    for _ in range(4):
        engine.update([torch.cat([torch.zeros(3, 1), torch.ones(3, 7)], 1), good[1]])
    assert state.dead.tolist() == [True, *[False] * 7]
    bad = torch.full((8,), NAN)
    advance(engine, bad, bad, checked=False)
    assert state.dead.tolist() == [True, *[False] * 7]


BAD_UNITS = [
    (torch.tensor([0]), "units must be a sequence of 2 index tensors, one for each group, got Tensor"),
    ([[0]], "units must be a sequence of 2 index tensors, one for each group, got 1 entries"),
    (5, "units must be a sequence of 2 index tensors, one for each group, got int"),
    ([[8], []], "units of group '0' must lie in 0..7, got [8]"),
    ([[], [-1]], "units of group '2' must lie in 0..5, got [-1]"),
    ([[1, 1], []], "units of group '0' must be distinct, got [1, 1]"),
    ([[0.5], []], "units of group '0' must be a 1-d tensor of integer indices, got torch.float32"),
    ([[True] * 8, []], "units of group '0' must be a 1-d tensor of integer indices, got torch.bool"),
    ([torch.tensor(1), []], "integer indices, got torch.int64 of shape ()"),
    (["ab", []], "units of group '0' must be a 1-d tensor of integer indices"),
]


@pytest.mark.parametrize(("units", "message"), BAD_UNITS)
def test_units_that_there_are_not(units, message):
    run = started()
    refused(run, lambda: run[2].replace(units), (ValueError, TypeError), re.escape(message))


@pytest.mark.parametrize(
    ("incoming", "message"),
    [
        (torch.ones(1, 4), "incoming must be a sequence of 2 tensors (or None), one for each group, got Tensor"),
        ([torch.ones(1, 4)], "one for each group, got 1 entries"),
        ([torch.ones(2, 4), None], "incoming weights of group '0' must have shape (1, 4), got (2, 4)"),
        ([None, torch.ones(8)], "incoming weights of group '2' must have shape (1, 8), got (8,)"),
    ],
)
def test_incoming_weights_that_do_not_fit(incoming, message):
    run = started()
    refused(run, lambda: run[2].replace([[3], [1]], incoming), ValueError, re.escape(message))


def saved(change, **settings) -> dict:
    state = started(settings.pop("net", None), **settings)[2].state_dict()
    change(state)
    return state


def nothing(state: dict) -> None:
    pass


BAD_STATES = {
    "version": (lambda: saved(lambda s: s.update(version=99)), "version 99; this gnt reads version 1"),
    "utility": (lambda: saved(nothing, utility="weight"), "of utility 'weight', this engine measures 'contribution'"),
    "widths": (lambda: saved(nothing, net=mlp(4, 9, 6, 2)), r"\[\('0', 9\), \('2', 6\)\], this engine has"),
    "depth": (lambda: saved(nothing, net=mlp(4, 8, 2)), r"holds groups \(name, units\) \[\('0', 8\)\], this engine"),
    "shape": (lambda: saved(lambda s: s["groups"][1].update(born=torch.ones(3))), "'born' of shape .3,. for group '2'"),
    "None": (lambda: None, "not one of GnT.state_dict"),
    "another's": (lambda: mlp().state_dict(), "not one of GnT.state_dict"),
    **{
        f"without {key}": (lambda key=key: saved(lambda s: s.pop(key)), key)
        for key in ("utility", "updates", "generator", "coin")
    },
    **{
        f"group without {key}": (lambda key=key: saved(lambda s: s["groups"][1].pop(key)), key)
        for key in ("utility", "mean_feature", "born", "last_active", "nonfinite", "updates", "replaced", "accumulated")
    },
}


@pytest.mark.parametrize(("state", "message"), BAD_STATES.values(), ids=BAD_STATES)
def test_saved_states_of_another_engine(state, message):
    run, state = started(), state()
    refused(run, lambda: run[2].load_state_dict(state), ValueError, message)


def test_a_step_before_any_forward():
    net = mlp()
    engine = gnt.GnT(net)
    message = "no features of group '0', '2' since the last update: run the network forward in training mode"
    refused((net, None, engine), engine.step, RuntimeError, message)
    net.eval()(torch.ones(2, 4))
    refused((net, None, engine), engine.step, RuntimeError, message)
    net.train()(torch.ones(2, 4))
    engine.step()
    refused((net, None, engine), engine.step, RuntimeError, message)


def test_a_closed_engine_can_be_read_but_not_stepped():
    net, _, engine = run = started()
    net(torch.ones(2, 4))
    engine.close()
    engine.close()
    given, replace = (lambda: engine.step(good)), (lambda: engine.replace([[], []]))
    for call in (engine.step, given, engine.update, engine.select, replace):
        refused(run, call, RuntimeError, "this engine is closed")
    assert engine.report().updates == 6
    engine.load_state_dict(engine.state_dict())
    assert not any(module._forward_pre_hooks for module in net)
