"""Steps compiled by torch's compiler: the same numbers, one compilation for each shape, and less time than a loop."""

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


def test_results_equal_those_of_the_eager_learner_and_a_refused_batch_changes_nothing():
    before = compilation_count()
    eager, compiled = eager_and_compiled(mlp(4, 8, 2).double(), **ADAM)
    run_both(eager, compiled, range(5))
    for learner in (eager, compiled):
        x, y = samples(5, learner.net)
        with pytest.raises(FloatingPointError, match="the loss is nan"):
            learner.learn(x, y * float("nan"))
    assert run_both(eager, compiled, range(6, 20)) > 3
    assert_states_close(eager, compiled, rtol=1e-7, atol=1e-9)
    assert run_both(eager, compiled, range(20, 300)) > 50
    assert_states_close(eager, compiled, rtol=1e-7, atol=1e-9)
    assert compilation_count() - before <= 1


def test_convolutions_batch_norm_and_dropout_give_the_results_of_the_eager_learner():
    torch.manual_seed(0)
    body = (nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten())
    net = nn.Sequential(*body, nn.Dropout(0.2), nn.Linear(12, 2)).double()
    eager, compiled = eager_and_compiled(net, opt="sgd", step_size=0.01, momentum=0.9)
    assert run_both(eager, compiled, range(20), *IMAGE_SHAPE) > 3
    assert_states_close(eager, compiled, rtol=1e-7, atol=1e-9)


def test_gradients_of_a_graph_without_the_optimizer_have_memory_of_their_own():
    """The gradients of two biases, and of two parts of a weight, are the same; a sum has one for all samples."""

    class SumsOfParameters(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.other = mlp(4, 8, 2), nn.Parameter(torch.zeros(2))
            self.parts = nn.ParameterList([torch.eye(2), torch.ones(2, 2)])

        def forward(self, x):
            return F.linear(self.linear(x), self.parts[0] + self.parts[1]) + self.other

    learners = []
    for compiled in (False, True):
        net = SumsOfParameters().double()
        opt = torch.optim.RMSprop(net.parameters(), lr=1e-3)
        learners.append(gnt.Backprop(net, opt=opt, loss=lambda output, y: (output * y).sum(), compile=compiled))
    run_both(*learners, range(20))
    assert_states_close(*learners, rtol=1e-7, atol=1e-9)
    gradients = [parameter.grad for parameter in learners[1].net.parameters()]
    expected = [gradient + number for number, gradient in enumerate(gradients)]
    for number, gradient in enumerate(gradients):
        gradient.add_(number)
    torch.testing.assert_close(gradients, expected)


def test_learners_of_one_shape_compile_once():
    counts = []
    for seed in range(5):
        learner = gnt.ContinualBackprop(mlp(20, 5, 1, seed=seed), step_size=0.01 * seed, compile=True)
        for t in range(4):
            learner.learn(torch.randn(1, 20), torch.randn(1, 1))
            learner.opt.param_groups[0]["lr"] = 0.01 / (t + 1)
        counts.append(compilation_count())
    assert len(set(counts)) == 1


def test_a_small_step_takes_less_than_half_the_time_of_a_training_loop():
    """The target is 0.4; an idle machine measures 0.2."""
    x, y, net = torch.randn(1, 20), torch.randn(1, 1), mlp(20, 5, 1)
    learner = gnt.ContinualBackprop(mlp(20, 5, 1), opt="sgd", step_size=1e-4, compile=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)

    def loop_step():
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()

    def timed(step, n=30):
        begin = time.perf_counter()
        for _ in range(n):
            step()
        return time.perf_counter() - begin

    for step in (loop_step, lambda: learner.learn(x, y)):
        timed(step)
    ratios = [timed(lambda: learner.learn(x, y)) / timed(loop_step) for _ in range(15)]
    assert statistics.median(ratios) < 0.5
