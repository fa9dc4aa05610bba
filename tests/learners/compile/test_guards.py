"""What a graph would leave out or freeze is refused by name, before anything is changed."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.learners._compile import compiler
from gnt.optim import CBPSGD
from tests.helpers.compiled_learners import run_graphs_uncompiled, state
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, mlp


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    return run_graphs_uncompiled(monkeypatch)


def learner_of(net, **settings):
    return gnt.ContinualBackprop(net, compile=True, **{**FREQUENT_REPLACEMENT, **settings})


class Odd(nn.Module):
    """A network with something in its forward that a graph cannot have."""

    def __init__(self, what):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)])
        self.what, self.calls, self.kept, self.table = what, 0, None, [torch.ones(8)]

    def forward(self, x):
        h = torch.relu(self.layers[0](x))
        return self.layers[2](getattr(self, self.what)(h))

    def by_value(self, h):
        return h if h.sum() > 0 else 2 * h

    def by_item(self, h):
        return h * h.detach().mean().item()

    def keeps(self, h):
        self.kept = h.detach()
        return h

    def counts(self, h):
        self.calls += 1
        return h

    def python(self, h):
        return h * random.random()

    def numpy(self, h):
        return h * float(np.random.rand())

    def hidden(self, h):
        return h * self.table[0]


@pytest.mark.parametrize(
    ("what", "steps", "message"),
    [
        ("by_value", 2, "Odd cannot be traced as one graph: it decides by the values of tensors"),
        ("by_item", 2, "it decides by the values of tensors"),
        ("keeps", 2, "the forward of Odd sets 'kept' of Odd"),
        ("counts", 2, "the forward of Odd sets 'calls' of Odd"),
        ("python", 2, "draws from Python's or NumPy's random numbers"),
        ("numpy", 2, "draws from Python's or NumPy's random numbers"),
        ("hidden", 2, "neither a parameter nor a buffer of the network"),
    ],
)
def test_forwards(what, steps, message):
    learner = learner_of(Odd(what))
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
        (lambda net: net[0].weight.register_hook(lambda g: g.clamp(-1, 1)), "hooks on weight of Linear"),
        (lambda net: net[0].weight.register_post_accumulate_grad_hook(lambda p: None), "hooks on weight of Linear"),
    ],
)
def test_hooks(register, message):
    learner = learner_of(hooked(register))
    before = state(learner)
    with pytest.raises(RuntimeError, match=message):
        learner.learn(*batch(0))
    assert_same(before, state(learner))


def test_hooks_that_come_later():
    learner = learner_of(mlp())
    for t in range(3):
        learner.learn(*batch(t))
    learner.net[1].register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="of ReLU"):
        learner.learn(*batch(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.RMSprop(p), "RMSprop: known are SGD, Adam, AdamW, AdamGnT"),
        (lambda p: torch.optim.Adam(p, capturable=True), "Adam with capturable=True"),
        (lambda p: torch.optim.SGD(p, lr=0.1, differentiable=True), "SGD with differentiable=True"),
    ],
)
def test_optimizers(make, message):
    net = mlp()
    with pytest.raises(TypeError, match=re.escape(message)):
        learner_of(net, opt=make(net.parameters()))


def test_optimizers_with_an_engine():
    net = mlp()
    with pytest.raises(TypeError, match="CBPSGD"):
        gnt.Backprop(net, opt=CBPSGD(net, 0.1), compile=True)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    gnt.GnT(net, optimizer).attach()
    with pytest.raises(TypeError, match="step hooks of this SGD"):
        gnt.Backprop(net, opt=optimizer, compile=True)


def test_layers_that_act_by_themselves():
    first, second = nn.Linear(4, 8), nn.Linear(8, 2)
    net = nn.Sequential(first, nn.ReLU(), gnt.CBPLinear(first, second), second)
    with pytest.raises(TypeError, match="CBPLinear"):
        gnt.Backprop(net, compile=True).learn(*batch(0))


def test_bad_input_is_told_as_without():
    learner = learner_of(mlp())
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


def test_a_loss_of_another_kind():
    wrong = gnt.ContinualBackprop(mlp(), loss=lambda o, y: (o - y).square(), compile=True)
    with pytest.raises(ValueError, match="scalar"):
        wrong.learn(*batch(0))
    weighted = nn.MSELoss(reduction="sum")
    net = mlp()
    learner, plain = learner_of(net, loss=weighted), gnt.ContinualBackprop(mlp(), loss=F.mse_loss)
    for t in range(3):
        loss = learner.learn(*batch(t)).loss
    assert loss.ndim == 0
    assert plain is not None


def test_a_machine_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    import torch._inductor.config as config

    compiler.check_compiler.cache_clear()
    with (
        config.patch({"cpp.cxx": ("/nowhere/c++",)}),
        pytest.raises(RuntimeError, match="compile=True needs the compiler"),
    ):
        learner_of(mlp())
    compiler.check_compiler.cache_clear()


def test_the_flag_is_a_flag():
    with pytest.raises(TypeError, match="compile must be True or False"):
        gnt.Backprop(mlp(), compile="yes")
