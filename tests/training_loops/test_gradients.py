"""Loops that are not one forward, one backward, one step: accumulation, clipping, PPO, siamese and target networks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.small_runs import assert_same, batch
from tests.helpers.training_loops import ENTRY_POINTS, make_loop

LOOPS = pytest.mark.parametrize("name", [name for name in ENTRY_POINTS if name != "learner"])


def double(name):
    """In double precision, so that sums in another order differ by little."""
    torch.set_default_dtype(torch.float64)
    try:
        return make_loop(name)
    finally:
        torch.set_default_dtype(torch.float32)


def doubles(t, n=8):
    return tuple(tensor.double() for tensor in batch(t, n=n))


def assert_alike(mine, other):
    torch.testing.assert_close(mine.state(), other.state(), rtol=1e-7, atol=1e-10)
    assert mine.updates() == other.updates()
    assert mine.replaced() > 3


@LOOPS
@pytest.mark.parametrize("sizes", [(1, 5, 2), (4, 4), (8,)], ids=str)
def test_micro_batches_of_any_size_are_as_one_batch(name, sizes):
    parts, whole = double(name), double(name)
    for t in range(12):
        x, y = doubles(t)
        whole.optimizer.zero_grad()
        F.mse_loss(whole.net(x), y).backward()
        parts.optimizer.zero_grad()
        for some, wanted in zip(x.split(sizes), y.split(sizes), strict=True):
            (F.mse_loss(parts.net(some), wanted) * len(some) / len(x)).backward()
        for run in (parts, whole):
            run.optimizer.step()
            run.after_step()
    assert_alike(parts, whole)


@LOOPS
@pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_])
def test_clipping(name, clip):
    """The engine sees the same features; what differs is how far the optimizer goes."""
    mine, other = make_loop(name), make_loop(name)
    for t in range(12):
        x, y = batch(t)
        for run in (mine, other):
            run.optimizer.zero_grad()
            F.mse_loss(run.net(x), y).backward()
            if run is mine:
                clip(run.net.parameters(), 0.01)
            else:  # by hand
                grads = [p.grad for p in run.net.parameters()]
                norm = torch.cat([g.flatten() for g in grads]).norm()
                for g in grads:
                    g.clamp_(-0.01, 0.01) if clip is nn.utils.clip_grad_value_ else g.mul_(min(0.01 / (norm + 1e-6), 1))
            run.optimizer.step()
            run.after_step()
    torch.testing.assert_close(mine.state(), other.state(), rtol=1e-4, atol=1e-6)
    assert mine.updates() == {12}
    assert mine.replaced() > 3


@LOOPS
def test_epochs_over_minibatches_after_rollouts(name):
    """PPO: rollouts without grad in training mode, then several epochs over their minibatches, a step each."""
    mine, other = make_loop(name), make_loop(name)
    for iteration in range(3):
        x, y = batch(iteration, n=16)
        with torch.no_grad():
            for observation in x:
                mine.net(observation)
        order = torch.Generator().manual_seed(iteration)
        for _ in range(2):
            for rows in torch.randperm(16, generator=order).split(8):
                for run in (mine, other):
                    run.optimizer.zero_grad()
                    F.mse_loss(run.net(x[rows]), y[rows]).backward()
                    nn.utils.clip_grad_norm_(run.net.parameters(), 0.5)
                    run.optimizer.step()
                    run.after_step()
    assert_same(mine.state(), other.state())
    assert mine.updates() == {12}
    assert mine.replaced() > 3


@LOOPS
def test_siamese_forwards_are_one_batch(name):
    """Two forwards, one backward: as one forward of both halves."""
    twice, once = double(name), double(name)
    for t in range(12):
        x, y = doubles(t, n=10)
        left, right = x.split((6, 4))
        for run in (twice, once):
            run.optimizer.zero_grad()
        F.mse_loss(torch.cat([twice.net(left), twice.net(right)]), y).backward()
        F.mse_loss(once.net(x), y).backward()
        for run in (twice, once):
            run.optimizer.step()
            run.after_step()
    assert_alike(twice, once)


def copied(run):
    return copy.deepcopy(run.net)


def rebuilt(run):
    """A target that never had to do with any engine."""
    target = nn.Sequential(*(nn.Linear(m.in_features, m.out_features) if isinstance(m, nn.Linear) else nn.ReLU()
                             for m in run.net.layers if isinstance(m, (nn.Linear, nn.ReLU))))  # fmt: skip
    for mine, theirs in zip(target.parameters(), run.net.parameters(), strict=True):
        mine.data.copy_(theirs)
    return target


@LOOPS
@pytest.mark.parametrize("careless", [False, True], ids=["no_grad", "with grad, in training mode"])
def test_target_networks_are_left_alone(name, careless):
    """A deep copy that follows by Polyak averages: its forwards are no features, and no unit of it is replaced."""
    mine, other = make_loop(name), make_loop(name)
    targets = [copied(mine), rebuilt(other)]
    for t in range(14):
        x, y = batch(t)
        for run, target in zip((mine, other), targets, strict=True):
            with torch.set_grad_enabled(careless and run is mine):
                wanted = y + 0.9 * target(x)
            run.optimizer.zero_grad()
            F.mse_loss(run.net(x), wanted.detach()).backward()
            kept = [p.detach().clone() for p in target.parameters()]
            run.optimizer.step()
            run.after_step()
            assert_same([p.detach() for p in target.parameters()], kept)
            with torch.no_grad():
                for slow, fast in zip(target.parameters(), run.net.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
    assert_same(mine.state(), other.state())
    assert_same([p.detach() for p in targets[0].parameters()], [p.detach() for p in targets[1].parameters()])
    assert mine.updates() == {14}
    assert mine.replaced() > 3


@LOOPS
def test_steps_with_closures(name):
    mine, other = make_loop(name), make_loop(name).train(range(12))
    for t in range(12):
        x, y = batch(t)

        def closure(x=x, y=y):
            mine.optimizer.zero_grad()
            loss = F.mse_loss(mine.net(x), y)
            loss.backward()
            return loss

        assert mine.optimizer.step(closure).ndim == 0
        mine.after_step()
    assert_same(mine.state(), other.state())
    assert mine.replaced() > 3
