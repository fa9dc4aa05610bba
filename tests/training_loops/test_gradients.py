"""Training loops with gradient accumulation, clipping, rollouts, siamese and target networks, and closures."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.small_runs import assert_same, batch
from tests.helpers.training_loops import ENTRY_POINTS, make_loop

LOOPS = pytest.mark.parametrize("name", [name for name in ENTRY_POINTS if name != "learner"])


def make_double_loop(name):
    """A loop in double precision, where sums in a different order differ little."""
    torch.set_default_dtype(torch.float64)
    try:
        return make_loop(name)
    finally:
        torch.set_default_dtype(torch.float32)


def double_batch(t, n=8):
    return tuple(tensor.double() for tensor in batch(t, n=n))


def assert_close_runs(run, expected):
    torch.testing.assert_close(run.state(), expected.state(), rtol=1e-7, atol=1e-10)
    assert run.updates() == expected.updates()
    assert run.replaced() > 3


@LOOPS
@pytest.mark.parametrize("sizes", [(1, 5, 2), (4, 4), (8,)], ids=str)
def test_micro_batches_of_any_size_equal_one_batch(name, sizes):
    parts, whole = make_double_loop(name), make_double_loop(name)
    for t in range(12):
        x, y = double_batch(t)
        whole.optimizer.zero_grad()
        F.mse_loss(whole.net(x), y).backward()
        parts.optimizer.zero_grad()
        for inputs, targets in zip(x.split(sizes), y.split(sizes), strict=True):
            (F.mse_loss(parts.net(inputs), targets) * len(inputs) / len(x)).backward()
        for run in (parts, whole):
            run.optimizer.step()
            run.after_step()
    assert_close_runs(parts, whole)


@LOOPS
@pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_])
def test_torch_clipping_equals_clipping_by_hand(name, clip):
    run_torch, run_by_hand = make_loop(name), make_loop(name)
    for t in range(12):
        x, y = batch(t)
        for run in (run_torch, run_by_hand):
            run.optimizer.zero_grad()
            F.mse_loss(run.net(x), y).backward()
            if run is run_torch:
                clip(run.net.parameters(), 0.01)
            else:
                grads = [p.grad for p in run.net.parameters()]
                norm = torch.cat([g.flatten() for g in grads]).norm()
                for g in grads:
                    g.clamp_(-0.01, 0.01) if clip is nn.utils.clip_grad_value_ else g.mul_(min(0.01 / (norm + 1e-6), 1))
            run.optimizer.step()
            run.after_step()
    torch.testing.assert_close(run_torch.state(), run_by_hand.state(), rtol=1e-4, atol=1e-6)
    assert run_torch.updates() == {12}
    assert run_torch.replaced() > 3


@LOOPS
def test_rollouts_do_not_affect_the_epochs_that_follow(name):
    """As in PPO: rollouts without grad in training mode, then epochs over their minibatches with a step for each."""
    with_rollouts, without = make_loop(name), make_loop(name)
    for iteration in range(3):
        x, y = batch(iteration, n=16)
        with torch.no_grad():
            for observation in x:
                with_rollouts.net(observation)
        order = torch.Generator().manual_seed(iteration)
        for _ in range(2):
            for rows in torch.randperm(16, generator=order).split(8):
                for run in (with_rollouts, without):
                    run.optimizer.zero_grad()
                    F.mse_loss(run.net(x[rows]), y[rows]).backward()
                    nn.utils.clip_grad_norm_(run.net.parameters(), 0.5)
                    run.optimizer.step()
                    run.after_step()
    assert_same(with_rollouts.state(), without.state())
    assert with_rollouts.updates() == {12}
    assert with_rollouts.replaced() > 3


@LOOPS
def test_siamese_forwards_equal_one_batch(name):
    """Two forwards with one backward equal one forward of both halves."""
    twice, once = make_double_loop(name), make_double_loop(name)
    for t in range(12):
        x, y = double_batch(t, n=10)
        left, right = x.split((6, 4))
        for run in (twice, once):
            run.optimizer.zero_grad()
        F.mse_loss(torch.cat([twice.net(left), twice.net(right)]), y).backward()
        F.mse_loss(once.net(x), y).backward()
        for run in (twice, once):
            run.optimizer.step()
            run.after_step()
    assert_close_runs(twice, once)


def copied_target(run):
    return copy.deepcopy(run.net)


def rebuilt_target(run):
    """A target network of new modules, which no engine has hooks on."""
    target = nn.Sequential(*(nn.Linear(m.in_features, m.out_features) if isinstance(m, nn.Linear) else nn.ReLU()
                             for m in run.net.layers if isinstance(m, (nn.Linear, nn.ReLU))))  # fmt: skip
    for copied, original in zip(target.parameters(), run.net.parameters(), strict=True):
        copied.data.copy_(original)
    return target


@LOOPS
@pytest.mark.parametrize("with_grad", [False, True], ids=["no_grad", "with grad, in training mode"])
def test_target_networks_are_not_recorded_and_not_changed(name, with_grad):
    """The target is a deep copy, updated by Polyak averaging."""
    run_copied, run_rebuilt = make_loop(name), make_loop(name)
    targets = [copied_target(run_copied), rebuilt_target(run_rebuilt)]
    for t in range(14):
        x, y = batch(t)
        for run, target in zip((run_copied, run_rebuilt), targets, strict=True):
            with torch.set_grad_enabled(with_grad and run is run_copied):
                expected = y + 0.9 * target(x)
            run.optimizer.zero_grad()
            F.mse_loss(run.net(x), expected.detach()).backward()
            before = [p.detach().clone() for p in target.parameters()]
            run.optimizer.step()
            run.after_step()
            assert_same([p.detach() for p in target.parameters()], before)
            with torch.no_grad():
                for slow, fast in zip(target.parameters(), run.net.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
    assert_same(run_copied.state(), run_rebuilt.state())
    assert_same([p.detach() for p in targets[0].parameters()], [p.detach() for p in targets[1].parameters()])
    assert run_copied.updates() == {14}
    assert run_copied.replaced() > 3


@LOOPS
def test_steps_with_closures_equal_steps_without(name):
    run, expected = make_loop(name), make_loop(name).train(range(12))
    for t in range(12):
        x, y = batch(t)

        def closure(x=x, y=y):
            run.optimizer.zero_grad()
            loss = F.mse_loss(run.net(x), y)
            loss.backward()
            return loss

        assert run.optimizer.step(closure).ndim == 0
        run.after_step()
    assert_same(run.state(), expected.state())
    assert run.replaced() > 3
