"""Whatever a graph would leave out or turn into a constant is refused by name, before anything is changed."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
from torch import nn

import gnt
from gnt.learners._compile import compiler
from tests.helpers.compiled_learners import run_graphs_uncompiled, state
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, mlp


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    return run_graphs_uncompiled(monkeypatch)


def compiled_learner(net, **settings):
    return gnt.ContinualBackprop(net, compile=True, **{**FREQUENT_REPLACEMENT, **settings})


class UncapturableNet(nn.Module):
    """A network whose forward does something that a graph cannot do."""

    def __init__(self, what):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)])
        self.what, self.calls, self.kept, self.table = what, 0, None, [torch.ones(8)]

    def forward(self, x):
        h = torch.relu(self.layers[0](x))
        return self.layers[2](getattr(self, self.what)(h))

    def decides_by_value(self, h):
        return h if h.sum() > 0 else 2 * h

    def reads_item(self, h):
        return h * h.detach().mean().item()

    def keeps_tensor(self, h):
        self.kept = h.detach()
        return h

    def counts_calls(self, h):
        self.calls += 1
        return h

    def python_random(self, h):
        return h * random.random()

    def numpy_random(self, h):
        return h * float(np.random.rand())

    def reads_unregistered_tensor(self, h):
        return h * self.table[0]


@pytest.mark.parametrize(
    ("what", "steps", "message"),
    [
        ("decides_by_value", 2, "UncapturableNet cannot be traced as one graph: it decides by the values of tensors"),
        ("reads_item", 2, "it decides by the values of tensors"),
        ("keeps_tensor", 2, "the forward of UncapturableNet sets 'kept' of UncapturableNet"),
        ("counts_calls", 2, "the forward of UncapturableNet sets 'calls' of UncapturableNet"),
        ("python_random", 2, "draws from Python's or NumPy's random numbers"),
        ("numpy_random", 2, "draws from Python's or NumPy's random numbers"),
        ("reads_unregistered_tensor", 2, "neither a parameter nor a buffer of the network"),
    ],
)
def test_forwards_that_cannot_be_captured_are_refused(what, steps, message):
    learner = compiled_learner(UncapturableNet(what))
    for t in range(steps - 1):
        learner.learn(*batch(t))
    before, calls, kept = state(learner), learner.net.calls, learner.net.kept
    with pytest.raises(RuntimeError, match=re.escape(message)) as refused:
        learner.learn(*batch(steps))
    assert "compile=False" in str(refused.value)
    assert_same(before, state(learner))
    assert not learner.gnt.waiting
    assert learner.net.calls == calls
    assert learner.net.kept is kept


def hooked(register):
    net = mlp()
    register(net)
    return net


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda net: net[1].register_forward_hook(lambda *_: None), "hook .*lambda.* of ReLU"),
        (lambda net: net[0].register_forward_pre_hook(lambda *_: None), "hook .*lambda.* of Linear"),
        (lambda net: net[0].register_full_backward_hook(lambda *_: None), "of Linear"),
    ],
)
def test_hooks_are_refused(register, message):
    learner = compiled_learner(hooked(register))
    before = state(learner)
    with pytest.raises(RuntimeError, match=message):
        learner.learn(*batch(0))
    assert_same(before, state(learner))


def test_hooks_added_later_are_refused():
    learner = compiled_learner(mlp())
    for t in range(3):
        learner.learn(*batch(t))
    learner.net[1].register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="of ReLU"):
        learner.learn(*batch(3))


def test_cbp_layers_are_refused():
    first, second = nn.Linear(4, 8), nn.Linear(8, 2)
    net = nn.Sequential(first, nn.ReLU(), gnt.CBPLinear(first, second), second)
    with pytest.raises(TypeError, match="CBPLinear"):
        gnt.Backprop(net, compile=True).learn(*batch(0))


def test_sparse_gradients_are_refused():
    net = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 2))
    before = state(learner := gnt.Backprop(net, compile=True))
    with pytest.raises(
        RuntimeError, match=r"does not compile sparse gradients, such as those of Embedding\(sparse=True"
    ):
        learner.learn(torch.zeros(8, dtype=torch.long), torch.zeros(8, 2))
    assert_same(before, state(learner))


def test_bad_batches_raise_the_errors_of_the_eager_learner():
    learner = compiled_learner(mlp())
    for t in range(3):
        learner.learn(*batch(t))
    x, y = batch(3)
    with pytest.raises(ValueError, match="element by element"):
        learner.learn(x, y[:, :1])
    with pytest.raises(RuntimeError):
        learner.learn(x[:, :3], y)
    learner.net.eval()
    with pytest.raises(RuntimeError, match="training mode"):
        learner.learn(x, y)
    learner.net.train()
    assert learner.learn(x[:0], y[:0]).loss == 0.0
    with torch.no_grad(), pytest.raises(ValueError, match="grad_fn"):
        learner.learn(x, y)


def test_losses_are_scalars_also_when_compiled():
    wrong = gnt.ContinualBackprop(mlp(), loss=lambda o, y: (o - y).square(), compile=True)
    with pytest.raises(ValueError, match="scalar"):
        wrong.learn(*batch(0))
    total = nn.MSELoss(reduction="sum")
    learner = compiled_learner(mlp(), loss=total)
    for t in range(3):
        x, y = batch(t)
        step = learner.learn(x, y)
        torch.testing.assert_close(step.loss, total(step.output, y))


def test_a_missing_compiler_is_refused_at_construction(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    import torch._inductor.config as config

    compiler.check_compiler.cache_clear()
    with (
        config.patch({"cpp.cxx": ("/nowhere/c++",)}),
        pytest.raises(RuntimeError, match="compile=True needs the compiler"),
    ):
        compiled_learner(mlp())
    compiler.check_compiler.cache_clear()


def test_compile_must_be_a_boolean():
    with pytest.raises(TypeError, match="compile must be True or False"):
        gnt.Backprop(mlp(), compile="yes")


class Normalizing(nn.Module):
    """Subtracts a running mean that it assigns in each forward or, with ``once``, in the first one only."""

    def __init__(self, once):
        super().__init__()
        self.once = once
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if not self.once or not self.mean.any():
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


def test_buffers_that_each_forward_assigns_are_refused():
    net = nn.Sequential(Normalizing(once=False), *mlp())
    learner = compiled_learner(net)
    for step in range(2):
        learner.learn(*batch(step))
    before = state(learner)
    with pytest.raises(RuntimeError, match="the forward of Sequential sets mean in each step, and compiled code would"):
        learner.learn(*batch(2))
    assert_same(state(learner), before)
