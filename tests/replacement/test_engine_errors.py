"""Errors of a running engine: each names the group and the allowed values, and leaves everything unchanged."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, conv_net, full_state, mlp, train
from tests.helpers.strategies import BUILT_IN_MEASURES

NAN, INF = float("nan"), float("inf")


def make_run(net: nn.Module | None = None, *shape: int, **settings) -> tuple:
    """A network, its optimizer and its engine after a few steps."""
    net = net or mlp()
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    engine = gnt.GnT(net, opt, generator=torch.Generator().manual_seed(1), **{**FREQUENT_REPLACEMENT, **settings})
    train(net, opt, engine, range(6), *shape)
    return net, opt, engine


def assert_refused(run: tuple, call, error: type[Exception], message: str) -> None:
    """Check that ``call`` raises and leaves the run unchanged."""
    before = full_state(*run)
    with pytest.raises(error, match=message):
        call()
    assert_same(full_state(*run), before)


def ones(*shapes: tuple[int, ...], **options) -> list[Tensor]:
    return [torch.ones(shape, **options) for shape in shapes]


VALID_FEATURES = ones((3, 8), (3, 6))
BAD_FEATURES = [
    (VALID_FEATURES[0], TypeError, "a sequence of 2 tensors, one for each group, got Tensor"),
    (5, TypeError, "a sequence of 2 tensors, one for each group, got int"),
    ([], ValueError, "one tensor for each of the 2 groups ('0', '2'), got 0"),
    (VALID_FEATURES[:1], ValueError, "for each of the 2 groups ('0', '2'), got 1"),
    ([*VALID_FEATURES, VALID_FEATURES[0]], ValueError, "for each of the 2 groups ('0', '2'), got 3"),
    ([None, None], TypeError, "features of group '0' must be a tensor, got None"),
    ([3.0, VALID_FEATURES[1]], TypeError, "features of group '0' must be a tensor, got float"),
    ([VALID_FEATURES[0], "ab"], TypeError, "features of group '2' must be a tensor, got str"),
    ([VALID_FEATURES[0], []], RuntimeError, "no features of group '2'"),
    ([VALID_FEATURES[0], [VALID_FEATURES[1], 3]], TypeError, "features of group '2' must be a tensor, got int"),
    (VALID_FEATURES[::-1], ValueError, "group '0' must be what its consumer '2' reads, of shape (..., 8), got (3, 6)"),
    (ones((3, 8), (6, 3)), ValueError, "group '2' must be what its consumer '4' reads, of shape (..., 6), got (6, 3)"),
    (ones((3, 8), ()), ValueError, "of shape (..., 6), got ()"),
    ([VALID_FEATURES[0], ones((0, 6))[0]], ValueError, "features of group '2'"),
    (ones((3, 8), (3, 6), dtype=torch.float64), ValueError, "no wider than torch.float32, got torch.float64"),
    (ones((3, 8), (3, 6), dtype=torch.int64), ValueError, "group '0' must be floating point and no wider"),
    (ones((3, 8), (3, 6), dtype=torch.complex64), ValueError, "got torch.complex64"),
    (ones((3, 8), (3, 6), device="meta"), ValueError, "features of group '0' must be on cpu, got meta"),
]


@pytest.mark.parametrize(("features", "error", "message"), BAD_FEATURES)
@pytest.mark.parametrize("method", ["update", "step"])
def test_features_that_do_not_fit_the_consumer_are_refused(features, error, message, method):
    run = make_run()
    assert_refused(run, lambda: getattr(run[2], method)(features), error, re.escape(message))
    run[2].step(VALID_FEATURES)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 4, 3, 3), "(batch, 5, size, size), got (2, 4, 3, 3)"), ((2, 5, 9), "got (2, 5, 9)"), ((5,), "got (5,)")],
)
def test_features_that_do_not_fit_a_convolution_are_refused(shape, message):
    run = make_run(conv_net(), 1, 8, 8)
    assert_refused(run, lambda: run[2].step(ones(shape, (2, 16), (2, 6))), ValueError, re.escape(message))
    run[2].step(ones((2, 5, 6, 6), (2, 16), (2, 6)))


def test_a_linear_layer_applied_along_the_pixels_is_refused():
    net = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Linear(16, 2))
    engine = gnt.GnT(list(net))  # a forward of its own might flatten, so the error appears only with features
    net(torch.randn(2, 3, 16))
    message = "group '0' must be what its consumer '2' reads, of shape (batch, 16), got (2, 8, 16)"
    assert_refused((net, None, engine), engine.step, ValueError, re.escape(message))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("utility", BUILT_IN_MEASURES)
def test_nonfinite_features_are_refused(utility, value):
    run = make_run(utility=utility)
    bad = [VALID_FEATURES[0], VALID_FEATURES[1].clone()]
    bad[1][2, 4] = value
    message = "features or weights of group '2' are not finite"
    assert_refused(run, lambda: run[2].step(bad), FloatingPointError, message)
    assert_refused(run, lambda: run[2].update(bad), FloatingPointError, message)
    run[2].step(VALID_FEATURES)


@pytest.mark.parametrize(("layer", "utility"), [(4, "contribution"), (4, "weight"), (2, "adaptation"), (0, "weight")])
def test_nonfinite_weights_are_refused(layer, utility):
    run = make_run(utility=utility)
    with torch.no_grad():
        run[0][layer].weight[1, 3] = NAN
    group = "0" if layer == 0 else "2"
    run[0](torch.ones(2, 4))
    assert_refused(run, run[2].step, FloatingPointError, f"features or weights of group '{group}' are not finite")


@pytest.mark.parametrize("make", ["attach", "CBPSGD", "CBPAdam", "step"])
def test_the_error_for_weights_that_are_not_finite_says_that_the_optimizer_has_stepped(make):
    net = mlp()
    if make.startswith("CBP"):
        optimizer = getattr(gnt.optim, make)(net, lr=0.1)
        engine = optimizer.gnt
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        engine = gnt.GnT(net, optimizer)
        if make == "attach":
            engine.attach()
    net(torch.randn(8, 4)).square().sum().backward()
    for param in net.parameters():
        param.grad.fill_(INF)
    averages = corrected_averages(engine)
    if make == "step":
        optimizer.step()
    step = engine.step if make == "step" else optimizer.step
    with pytest.raises(FloatingPointError, match="the engine has changed nothing, but a step that the optimizer took"):
        step()
    assert not net[0].weight.isfinite().all()
    assert_same(corrected_averages(engine), averages)


def corrected_averages(engine) -> list[Tensor]:
    return [t.clone() for g in engine.groups for t in (g.state.corrected_utility, g.state.corrected_mean_feature)]


def advance(engine, mean, utility, *, checked: bool) -> None:
    """Update the first group; ``checked=False`` as on an accelerator, where the host does not check for NaN."""
    shared = engine.importance.evaluator.parts[0].shared
    for i, state in enumerate(shared.states):
        shared.means[i].copy_(mean if i == 0 else torch.ones(state.num_units))
        shared.utilities[i].copy_(utility if i == 0 else torch.ones(state.num_units))
    shared.advance(checked=checked)


@pytest.mark.parametrize("utility", ["contribution", "random"])
def test_without_the_host_check_nan_is_counted_and_does_not_affect_utilities(utility):
    _, _, engine = make_run(utility=utility)
    state, other = engine.groups[0].state, engine.groups[1].state
    state.replace(torch.tensor([5]), all_eligible=False)  # a unit that has averaged few updates
    engine.update(VALID_FEATURES)
    before, age, healthy = corrected_averages(engine)[:2], state.age, other.mean_feature.clone()
    bad = torch.full((8,), NAN)
    advance(engine, bad, bad, checked=False)
    assert torch.equal(state.age, age + 1)
    assert state.nonfinite.item() == 1
    assert state.state_dict()["nonfinite"].item() == 1
    assert [group.nonfinite for group in engine.report().groups] == [1, 0]
    torch.testing.assert_close(corrected_averages(engine)[:2], before)
    torch.testing.assert_close(other.mean_feature, torch.lerp(healthy, torch.ones(6), 0.1))
    assert torch.equal(state.corrected_utility.argsort(), before[0].argsort())
    advance(engine, torch.ones(8), torch.ones(8), checked=False)
    assert state.nonfinite.item() == 1
    assert torch.isfinite(state.corrected_utility).all()


def test_without_the_host_check_finite_updates_give_the_same_state():
    engines = [make_run(kernels=False)[2] for _ in range(2)]
    mean, utility = torch.rand(8), torch.rand(8)
    for engine, checked in zip(engines, (True, False), strict=True):
        advance(engine, mean, utility, checked=checked)
    for group, other in zip(engines[0].groups, engines[1].groups, strict=True):
        assert_same(group.state.state_dict(), other.state.state_dict())


def test_a_nan_does_not_mark_a_dead_unit_as_active():
    _, _, engine = make_run(replacement_rate=0.0)
    state = engine.groups[0].state
    for _ in range(4):
        engine.update([torch.cat([torch.zeros(3, 1), torch.ones(3, 7)], 1), VALID_FEATURES[1]])
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
def test_invalid_unit_indices_are_refused(units, message):
    run = make_run()
    assert_refused(run, lambda: run[2].replace(units), (ValueError, TypeError), re.escape(message))


@pytest.mark.parametrize(
    ("incoming", "message"),
    [
        (torch.ones(1, 4), "incoming must be a sequence of 2 tensors (or None), one for each group, got Tensor"),
        ([torch.ones(1, 4)], "one for each group, got 1 entries"),
        ([torch.ones(2, 4), None], "incoming weights of group '0' must have shape (1, 4), got (2, 4)"),
        ([None, torch.ones(8)], "incoming weights of group '2' must have shape (1, 8), got (8,)"),
    ],
)
def test_incoming_weights_of_the_wrong_shape_are_refused(incoming, message):
    run = make_run()
    assert_refused(run, lambda: run[2].replace([[3], [1]], incoming), ValueError, re.escape(message))


def saved_state(change, **settings) -> dict:
    """The state of an engine after ``change(state)``."""
    state = make_run(settings.pop("net", None), **settings)[2].state_dict()
    change(state)
    return state


def no_change(state: dict) -> None:
    pass


BAD_STATES = {
    "version": (lambda: saved_state(lambda s: s.update(version=99)), "version 99; this gnt reads version 1"),
    "utility": (
        lambda: saved_state(no_change, utility="weight"),
        "of utility 'weight', this engine measures 'contribution'",
    ),
    "widths": (lambda: saved_state(no_change, net=mlp(4, 9, 6, 2)), r"\[\('0', 9\), \('2', 6\)\], this engine has"),
    "depth": (
        lambda: saved_state(no_change, net=mlp(4, 8, 2)),
        r"holds groups \(name, units\) \[\('0', 8\)\], this engine",
    ),
    "shape": (
        lambda: saved_state(lambda s: s["groups"][1].update(born=torch.ones(3))),
        "'born' of shape .3,. for group '2'",
    ),
    "None": (lambda: None, "not one of GnT.state_dict"),
    "of a network": (lambda: mlp().state_dict(), "not one of GnT.state_dict"),
    **{
        f"without {key}": (lambda key=key: saved_state(lambda s: s.pop(key)), key)
        for key in ("utility", "updates", "generator", "coin")
    },
    **{
        f"group without {key}": (lambda key=key: saved_state(lambda s: s["groups"][1].pop(key)), key)
        for key in ("utility", "mean_feature", "born", "last_active", "nonfinite", "updates", "replaced", "accumulated")
    },
}


@pytest.mark.parametrize(("state", "message"), BAD_STATES.values(), ids=BAD_STATES)
def test_invalid_states_are_refused(state, message):
    run, state = make_run(), state()
    assert_refused(run, lambda: run[2].load_state_dict(state), ValueError, message)


def test_a_step_without_recorded_features_is_refused():
    net = mlp()
    engine = gnt.GnT(net)
    message = "no features of group '0', '2' since the last update: run the network forward in training mode"
    assert_refused((net, None, engine), engine.step, RuntimeError, message)
    net.eval()(torch.ones(2, 4))
    assert_refused((net, None, engine), engine.step, RuntimeError, message)
    net.train()(torch.ones(2, 4))
    engine.step()
    assert_refused((net, None, engine), engine.step, RuntimeError, message)


def test_a_closed_engine_refuses_steps_but_can_be_reported_and_saved():
    net, _, engine = run = make_run()
    net(torch.ones(2, 4))
    engine.close()
    engine.close()
    step_with_features, replace = (lambda: engine.step(VALID_FEATURES)), (lambda: engine.replace([[], []]))
    for call in (engine.step, step_with_features, engine.update, engine.select, replace):
        assert_refused(run, call, RuntimeError, "this object is closed")
    assert engine.report().updates == 6
    engine.load_state_dict(engine.state_dict())
    assert not any(module._forward_pre_hooks for module in net)


def test_predict_of_the_network_must_return_output_and_features():
    class Net(nn.Sequential):
        def predict(self, x):
            return self(x)

    net = Net(*mlp(4, 6, 2))
    for learner in (gnt.Backprop(net), gnt.ContinualBackprop(net)):
        with pytest.raises(TypeError, match=r"predict of Net must return \(output, features\), got Tensor"):
            learner.learn(torch.randn(2, 4), torch.randn(2, 2))


def test_a_replay_is_not_finished_if_no_step_was_captured():
    engine = gnt.GnT(mlp())
    with pytest.raises(RuntimeError, match="none was captured"):
        engine.after_replay()
    assert engine.updates == 0
