"""Python values that forward or loss read: a change takes effect at once, and what cannot be seen is refused."""

from __future__ import annotations

import collections
import copy
import ctypes
import dataclasses
import functools
import gc
import itertools
import random
import re
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.helpers.compiled_learners import run_graphs_uncompiled
from tests.helpers.small_runs import assert_same, batch, mlp

GLOBAL, GLOBAL_TABLE, GLOBAL_MODULE = 0.5, {"scale": [1.0, 0.5]}, types.ModuleType("settings_of_the_user")
GLOBAL_MODULE.scale = 0.5
CALLS = 0


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    return run_graphs_uncompiled(monkeypatch)


@dataclasses.dataclass
class Config:
    scale: float = 0.5
    nested: dict = dataclasses.field(default_factory=lambda: {"scale": 0.5})


class Slotted:
    __slots__ = ("scale",)

    def __init__(self):
        self.scale = 0.5


class Base(nn.Module):
    class_value = 0.5

    def by_class(self, h):
        return h * self.class_value


class Net(Base):
    """A network whose forward reads one kind of value."""

    def __init__(self, what="plain"):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)])
        self.what, self.number, self.float32, self.array = what, 0.5, np.float32(0.5), np.array([1.0, 0.5])
        self.table, self.entries, self.config, self.slotted = {"a": {"b": 0.5}}, [[1.0], [0.5]], Config(), Slotted()
        self.queue, self.chosen, self.counter = collections.deque([0.5]), {"relu"}, itertools.count()
        self.counts, self.c_value, self.random = {"calls": 0}, ctypes.c_double(0.5), random.Random(0)
        self.numpy_random, self.generator = np.random.default_rng(0), torch.Generator()
        self.namespace, self.activation = types.SimpleNamespace(calls=0, last=None), torch.relu

    def forward(self, x):
        return self.layers[2](getattr(self, self.what)(torch.relu(self.layers[0](x))))

    def plain(self, h):
        return h * self.number

    def numpy_scalar(self, h):
        return h * float(self.float32)

    def numpy_array(self, h):
        return h * float(self.array[1])

    def by_dict(self, h):
        return h * self.table["a"]["b"]

    def by_list(self, h):
        return h * self.entries[1][0]

    def by_deque(self, h):
        return h * self.queue[0]

    def by_set(self, h):
        return torch.relu(h - 0.1) if "relu" in self.chosen else torch.tanh(h - 0.1)

    def by_object(self, h):
        config = self.config
        return h * config.scale * config.nested["scale"]

    def by_slot(self, h):
        return h * self.slotted.scale

    def by_function(self, h):
        return self.activation(h - 0.1)

    def by_global(self, h):
        return h * GLOBAL

    def by_global_container(self, h):
        return h * GLOBAL_TABLE["scale"][1]

    def by_module(self, h):
        return h * GLOBAL_MODULE.scale

    def by_helper(self, h):
        return helper(h)

    def counts_in_dict(self, h):
        self.counts["calls"] += 1
        return h * self.counts["calls"]

    def counts_in_namespace(self, h):
        self.namespace.calls += 1
        return h

    def counts_in_global(self, h):
        global CALLS
        CALLS += 1
        return h

    def counts_by_iterator(self, h):
        return h * (next(self.counter) + 1)

    def reads_c_value(self, h):
        return h * self.c_value.value

    def keeps_in_namespace(self, h):
        self.namespace.last = h.detach()
        return h

    def draws_by_python(self, h):
        return h * self.random.random()

    def draws_by_numpy(self, h):
        return h * self.numpy_random.random()

    def draws_by_generator(self, h):
        return h * torch.rand(8, generator=self.generator)


def helper(h, options={"scale": 0.5}):  # noqa: B006
    return h * options["scale"] * helper.scale


helper.scale = 0.5


def patched_helper(h):
    return h * 0.1


def set_global(name, value):
    globals()[name] = value


# (the kind of value, its new value, its old value)
CHANGES = {
    "plain": lambda net, v: setattr(net, "number", v),
    "numpy_scalar": lambda net, v: setattr(net, "float32", np.float32(v)),
    "numpy_array": lambda net, v: net.array.__setitem__(1, v),
    "by_dict": lambda net, v: net.table["a"].update(b=v),
    "by_list": lambda net, v: net.entries[1].__setitem__(0, v),
    "by_deque": lambda net, v: net.queue.__setitem__(0, v),
    "by_set": lambda net, v: net.chosen.clear() if v == 0.1 else net.chosen.add("relu"),
    "by_object": lambda net, v: (setattr(net.config, "scale", v), net.config.nested.update(scale=v)),
    "by_slot": lambda net, v: setattr(net.slotted, "scale", v),
    "by_function": lambda net, v: setattr(net, "activation", torch.tanh if v == 0.1 else torch.relu),
    "by_class": lambda net, v: setattr(Base, "class_value", v),
    "by_global": lambda net, v: set_global("GLOBAL", v),
    "by_global_container": lambda net, v: GLOBAL_TABLE["scale"].__setitem__(1, v),
    "by_module": lambda net, v: setattr(GLOBAL_MODULE, "scale", v),
    "by_helper": lambda net, v: helper.__defaults__[0].update(scale=v),
    "by_helper ": lambda net, v: setattr(helper, "scale", v),
}


def losses_of_a_run(learner, change, steps=8):
    """Losses of a run in which a value is changed twice, and changed back."""
    losses = []
    for t in range(steps):
        if t in (3, 6):
            change(0.1 if t == 3 else 0.5)
        losses.append(learner.learn(*batch(t)).loss)
    return losses


def assert_changes_take_effect(make, change, graphs):
    """``make(compile)`` returns a learner, and ``change(learner, value)`` changes what it reads."""
    runs = []
    for compile in (False, True):
        learner = make(compile)
        runs.append(losses_of_a_run(learner, functools.partial(change, learner)))
    torch.testing.assert_close(runs[1], runs[0])
    assert len(graphs) == 2
    unchanged = losses_of_a_run(make(False), lambda value: None)
    assert not torch.allclose(runs[0][3], unchanged[3])


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_value_that_the_forward_reads_takes_effect(what, graphs):
    def make(compile):
        return gnt.Backprop(Net(what.strip()), step_size=0.05, compile=compile)

    assert_changes_take_effect(make, lambda learner, value: CHANGES[what](learner.net, value), graphs)


class CallableLoss:
    def __init__(self):
        self.options = {"coef": 0.5}

    def __call__(self, output, y):
        return self.options["coef"] * F.mse_loss(output, y)

    def method(self, output, y):
        return self(output, y)


def closure_loss():
    coef = 0.5

    def loss(output, y):
        return coef * F.mse_loss(output, y)

    def change(value):
        nonlocal coef
        coef = value

    return loss, change


def nested_closure_loss():
    inner, change = closure_loss()
    return functools.wraps(inner)(lambda *args: inner(*args)), change


def partial_loss():
    loss = functools.partial(lambda output, y, coef: coef * F.mse_loss(output, y), coef=0.5)
    return loss, lambda value: loss.keywords.update(coef=value)


def object_loss(bound):
    loss = CallableLoss()
    return (loss.method if bound else loss), lambda value: loss.options.update(coef=value)


def module_loss():
    loss = nn.SmoothL1Loss(beta=0.5)
    return loss, lambda value: setattr(loss, "beta", value)


@pytest.mark.parametrize(
    "make_loss",
    [
        closure_loss,
        nested_closure_loss,
        partial_loss,
        functools.partial(object_loss, False),
        functools.partial(object_loss, True),
        module_loss,
    ],
)
def test_a_changed_value_that_the_loss_reads_takes_effect(make_loss, graphs):
    changes = {}

    def make(compile):
        loss, change = make_loss()
        learner = gnt.Backprop(mlp(), loss=loss, step_size=0.05, compile=compile)
        changes[id(learner)] = change
        return learner

    assert_changes_take_effect(make, lambda learner, value: changes[id(learner)](value), graphs)


def patch_instance(learner, value):
    if value == 0.1:
        learner.net.forward = lambda x: 0.1 * Net.forward(learner.net, x)
    else:
        del learner.net.forward


def patch_class(learner, value):
    learner.net.__class__ = {0.1: type("Patched", (Net,), {"forward": patched_forward}), 0.5: Net}[value]


def patch_method(learner, value, original=Net.plain):
    Net.plain = original if value == 0.5 else lambda self, h: h * 0.1


def patched_forward(self, x):
    return 0.1 * Net.forward(self, x)


@pytest.mark.parametrize("patch", [patch_instance, patch_class, patch_method])
def test_a_patched_forward_takes_effect(patch, graphs):
    runs = []
    for compile in (False, True):
        learner = gnt.Backprop(Net(), step_size=0.05, compile=compile)
        runs.append(losses_of_a_run(learner, functools.partial(patch, learner)))
    torch.testing.assert_close(runs[1], runs[0])
    assert len(graphs) > 1


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("counts_in_dict", "change 'counts' of Net"),
        ("counts_in_namespace", "change 'calls' of SimpleNamespace"),
        ("keeps_in_namespace", "change 'last' of SimpleNamespace"),
        ("counts_in_global", f"change the global 'CALLS' of {__name__}"),
        ("counts_by_iterator", "read 'counter' of Net, whose state cannot be read (count)"),
        ("reads_c_value", "read 'c_value' of Net, whose state cannot be read (c_double)"),
        ("draws_by_python", "change 'random' of Net"),
        ("draws_by_numpy", "change 'numpy_random' of Net"),
        ("draws_by_generator", "draws from a generator of its own"),
    ],
)
def test_state_that_compiled_code_cannot_follow_is_refused(what, message):
    learner = gnt.Backprop(Net(what), compile=True)
    learner.learn(*batch(0))
    net = learner.net

    def state():
        numbers = [net.random.getstate(), str(net.numpy_random.bit_generator.state), net.generator.get_state()]
        values = [copy.deepcopy(net.counts), vars(net.namespace).copy(), CALLS, repr(net.counter)]
        return [copy.deepcopy(learner.state_dict()), numbers, values]

    before = state()
    with pytest.raises(RuntimeError, match=re.escape(message)) as refused:
        learner.learn(*batch(1))
    assert "compile=False" in str(refused.value)
    assert_same(state(), before)


def test_a_value_that_changes_in_each_step_is_named_and_results_are_right(graphs):
    runs = []
    for compile in (False, True):
        loss, change = closure_loss()
        learner = gnt.Backprop(mlp(), loss=loss, step_size=0.05, compile=compile)
        losses = []
        for t in range(20):
            change(1.0 - t / 40)
            if t == 16 and compile:
                with pytest.warns(UserWarning, match="steps of 16 kinds.* these change: 'coef' in the closure of loss"):
                    losses.append(learner.learn(*batch(t)).loss)
            else:
                losses.append(learner.learn(*batch(t)).loss)
        runs.append(losses)
    assert_same(runs[1], runs[0])
    assert graphs == []


def test_values_that_nothing_reads_may_change(graphs):
    learner = gnt.Backprop(Net("plain"), step_size=0.05, compile=True)
    for t in range(6):
        learner.learn(*batch(t))
        learner.net.table["a"]["b"] = t
        learner.net.entries.append(t)
    assert len(graphs) == 1


def test_values_of_a_registered_measure(graphs):
    scales = [1.0]
    gnt.register_utility("scaled by a list", lambda s: scales[0] * s.magnitude.mean(1))
    utilities = []
    for compile in (False, True):
        settings = {"utility": "scaled by a list", "replacement_rate": 0.0, "maturity_threshold": 2}
        learner = gnt.ContinualBackprop(mlp(), step_size=0.05, compile=compile, **settings)
        for t in range(6):
            scales[0] = 1.0 if t < 3 else 100.0
            learner.learn(*batch(t))
        utilities.append(learner.gnt.groups[0].state.utility)
    torch.testing.assert_close(*utilities)


COLLECTIONS = 0


def count_collections(phase, info):
    global COLLECTIONS
    COLLECTIONS += 1


def test_callbacks_of_the_garbage_collector_are_no_part_of_a_step(graphs):
    gc.callbacks.append(count_collections)
    learner = gnt.Backprop(mlp(), compile=True)
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for t in range(4):
            learner.learn(*batch(t))
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(count_collections)
    assert COLLECTIONS
    assert graphs
