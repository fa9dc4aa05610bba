"""Mixed precision: autocast around parts of the loop, steps that a GradScaler skips, parameters in bfloat16."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, conv_net, full_state, mlp, replaced
from tests.helpers.training_loops import ENTRY_POINTS, make_loop

EACH = pytest.mark.parametrize("name", ENTRY_POINTS)
LOOPS = pytest.mark.parametrize("name", [name for name in ENTRY_POINTS if name != "learner"])
HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def autocast(dtype, enabled=True):
    return torch.autocast("cpu", dtype) if enabled else nullcontext()


@HALF
@EACH
def test_autocast_around_the_step_equals_autocast_around_the_forward(name, dtype):
    """With backward, optimizer step and engine step also under autocast, the results do not change."""
    states = []
    for around_step in (False, True):
        run = make_loop(name, lambda layers, x: forward_with_autocast(dtype, layers, x))
        for t in range(12):
            with autocast(dtype, around_step):
                run.step(*batch(t))
        assert run.updates() == {12}
        assert run.replaced() > 6
        states.append(run.state())
    assert_same(*states)


def forward_with_autocast(dtype, layers, x):
    with autocast(dtype):
        return layers(x).float()


@HALF
@pytest.mark.parametrize("utility", ["contribution", "adaptable_contribution", "zero_contribution", "feature_by_input"])
def test_half_features_have_float32_statistics(utility, dtype):
    """The statistics equal those of the same half-precision features, converted to float32."""
    torch.manual_seed(0)
    nets = [conv_net(), conv_net()]
    recording = gnt.GnT(nets[0], utility=utility)
    given = gnt.GnT(nets[1], utility=utility, record=False)
    read = [[] for _ in recording.groups]
    for own, group in zip(read, recording.groups, strict=True):
        group.consumers[0].register_forward_pre_hook(lambda module, args, own=own: own.append(args[0].detach()))
    for t in range(3):
        with autocast(dtype):
            nets[0](batch(t, 1, 8, 8, n=32)[0])
        assert {features[0].dtype for features in read} == {dtype}
        with autocast(dtype):
            recording.update()
        given.update([features.pop().float() for features in read])
    for a, b in zip(recording.groups, given.groups, strict=True):
        assert a.state.utility.dtype == a.state.mean_feature.dtype == torch.float32
        torch.testing.assert_close(a.state.mean_feature, b.state.mean_feature, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(a.state.utility, b.state.utility, rtol=1e-5, atol=1e-6)


def train_with_scaler(run, steps, overflow=(), late=False, micro_batches=1):
    """Train with a GradScaler; the steps in ``overflow`` have infinite inputs ("features") or targets ("loss").

    ``late``: zero_grad comes after the forward.
    """
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for t in steps:
        if not late:
            run.optimizer.zero_grad()
        losses = []
        for micro in range(micro_batches):
            x, y = batch(10 * t + micro)
            if t in overflow:
                x = torch.full_like(x, math.inf) if overflow[t] == "features" else x
                y = torch.full_like(y, math.inf) if overflow[t] == "loss" else y
            losses.append(F.mse_loss(run.net(x), y))
            if late and not micro:
                run.optimizer.zero_grad()
            scaler.scale(losses[-1]).backward()
        if t % 2:
            scaler.unscale_(run.optimizer)
            torch.nn.utils.clip_grad_norm_(run.net.parameters(), 1.0)
        scaler.step(run.optimizer)
        scaler.update()
        if scaler.get_scale() == 2.0**10:
            run.after_step()
        elif run.steps_engine:
            run.engines[0].discard()  # only needed in a loop that steps the engine itself
        scaler.update(2.0**10)
    return run


@pytest.mark.parametrize("late", [False, True], ids=["zero_grad, forward", "forward, zero_grad"])
@pytest.mark.parametrize("micro_batches", [1, 3])
@LOOPS
def test_a_step_that_the_scaler_skips_leaves_no_trace(name, micro_batches, late):
    overflow = {5: "loss", 6: "features", 10: "features", 13: "loss"}
    run = train_with_scaler(make_loop(name), range(20), overflow, late, micro_batches)
    steps = [t for t in range(20) if t not in overflow]
    expected = train_with_scaler(make_loop(name), steps, {}, late, micro_batches)
    assert run.updates() == {16}
    assert_same(run.state(), expected.state())
    assert run.replaced() > 6


@LOOPS
def test_skipped_steps_alone_change_nothing(name):
    run = train_with_scaler(make_loop(name), range(6))
    before = run.state()
    train_with_scaler(run, range(6, 9), dict.fromkeys(range(6, 9), "loss"))
    assert_same(run.state(), before)


@pytest.mark.parametrize("utility", ["contribution", "adaptable_contribution"])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, gnt.AdamGnT])
def test_bfloat16_parameters(make, utility):
    """Averages are in float32, and ages count beyond 256, where bfloat16 would stop."""
    net = mlp(4, 8, 6, 2).to(torch.bfloat16)
    optimizer = make(net.parameters(), lr=1e-3)
    settings = {**FREQUENT_REPLACEMENT, "replacement_rate": 0.02, "maturity_threshold": 20, "utility": utility}
    engine = gnt.GnT(net, optimizer, **settings, generator=torch.Generator().manual_seed(0)).attach()
    for t in range(300):
        if t == 250:
            engine.replacement_rate = 0.0
        x, y = batch(t)
        optimizer.zero_grad()
        F.mse_loss(net(x.bfloat16()), y.bfloat16()).backward()
        optimizer.step()
    for group in engine.groups:
        state = group.state
        assert {state.utility.dtype, state.mean_feature.dtype} == {torch.float32}
        assert state.age.min() >= 50
        assert state.utility.isfinite().all()
    assert min(replaced(engine)) >= 20
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    assert all(p.isfinite().all() for p in net.parameters())
    idle = gnt.GnT(net, maturity_threshold=1000)
    for _ in range(300):
        idle.update([torch.ones(2, 8, dtype=torch.bfloat16), torch.ones(2, 6, dtype=torch.bfloat16)])
    assert [group.state.age.tolist() for group in idle.groups] == [[300] * 8, [300] * 6]


def test_bfloat16_training_resumes_bit_for_bit():
    def make():
        net = mlp().to(torch.bfloat16)
        optimizer = torch.optim.Adam(net.parameters())
        return (
            net,
            optimizer,
            gnt.GnT(net, optimizer, generator=torch.Generator().manual_seed(5), **FREQUENT_REPLACEMENT).attach(),
        )

    def train_steps(net, optimizer, steps):
        for t in steps:
            x, y = batch(t)
            optimizer.zero_grad()
            F.mse_loss(net(x.bfloat16()), y.bfloat16()).backward()
            optimizer.step()

    uninterrupted, resumed = make(), make()
    train_steps(*uninterrupted[:2], range(10))
    resumed[0].load_state_dict(uninterrupted[0].state_dict())
    # torch loads tensors of the same dtype without a copy
    resumed[1].load_state_dict(copy.deepcopy(uninterrupted[1].state_dict()))
    for run in (uninterrupted, resumed):
        train_steps(*run[:2], range(10, 20))
    assert_same(full_state(*resumed), full_state(*uninterrupted))
