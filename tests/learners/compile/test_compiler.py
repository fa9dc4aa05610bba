"""The one graph through the real compiler: the same numbers, one compilation a shape, and far less time than a loop."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.learners._compile import compilation_count
from tests.helpers.compiled_learners import assert_states_close, eager_and_compiled, run_both, samples
from tests.helpers.small_runs import IMAGE_SHAPE, mlp

ADAM = {"opt": "adam", "amsgrad": True, "step_size": 0.01, "utility": "adaptable_contribution"}


def test_runs_as_without():
    before = compilation_count()
    eager, graph = eager_and_compiled(mlp(4, 8, 2).double(), **ADAM)
    assert run_both(eager, graph, range(300)) > 50
    assert_states_close(eager, graph, rtol=1e-7, atol=1e-9)
    assert compilation_count() - before <= 1


def test_convolutions_batch_norm_and_dropout():
    torch.manual_seed(0)
    body = (nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten())
    net = nn.Sequential(*body, nn.Dropout(0.2), nn.Linear(12, 2)).double()
    eager, graph = eager_and_compiled(net, opt="sgd", step_size=0.01, momentum=0.9)
    assert run_both(eager, graph, range(20), *IMAGE_SHAPE) > 3
    assert_states_close(eager, graph, rtol=1e-7, atol=1e-9)


def test_a_refused_step_has_changed_nothing():
    eager, graph = eager_and_compiled(mlp(4, 8, 2).double(), **ADAM)
    run_both(eager, graph, range(5))
    for learner in (eager, graph):
        x, y = samples(5, learner.net)
        with pytest.raises(FloatingPointError, match="the loss is nan"):
            learner.learn(x, y * float("nan"))
    assert run_both(eager, graph, range(6, 20)) > 3
    assert_states_close(eager, graph, rtol=1e-7, atol=1e-9)


def test_many_learners_compile_once():
    counts = []
    for seed in range(5):
        learner = gnt.ContinualBackprop(mlp(3, 7, 2, seed=seed), step_size=0.01 * seed, compile=True)
        for t in range(4):
            learner.learn(torch.randn(2, 3), torch.randn(2, 2))
            learner.opt.param_groups[0]["lr"] = 0.01 / (t + 1)
        counts.append(compilation_count())
    assert len(set(counts)) == 1


def test_a_small_step_takes_less_than_half_of_a_plain_loops():
    """The target is 0.4, and a quiet machine sees 0.2."""
    x, y, net = torch.randn(1, 20), torch.randn(1, 1), mlp(20, 5, 1)
    learner = gnt.ContinualBackprop(mlp(20, 5, 1), opt="sgd", step_size=1e-4, compile=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)

    def plain():
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()

    def timed(step, n=30):
        begin = time.perf_counter()
        for _ in range(n):
            step()
        return time.perf_counter() - begin

    for step in (plain, lambda: learner.learn(x, y)):
        timed(step)
    ratios = [timed(lambda: learner.learn(x, y)) / timed(plain) for _ in range(15)]
    assert statistics.median(ratios) < 0.5
