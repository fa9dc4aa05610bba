"""A step as one graph does what the ordinary step does: the same numbers, the same units, the same refusals."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import gnt
from gnt.importance import MEASURES
from gnt.learners._compile import compilation_count
from tests.helpers.compiled_learners import (
    assert_states_close,
    eager_and_compiled,
    run_both,
    run_graphs_uncompiled,
    samples,
    state,
)
from tests.helpers.small_runs import IMAGE_SHAPE, assert_same, conv_net, mlp

# nothing here asks whether a compiler works: the graphs run as they were traced
OPTIMIZERS = {
    "sgd": {"opt": "sgd", "step_size": 0.05},
    "sgd, all of it": {"opt": "sgd", "step_size": 0.02, "momentum": 0.8, "weight_decay": 0.01, "dampening": 0.3},
    "sgd, nesterov": {"opt": "sgd", "step_size": 0.02, "momentum": 0.8, "nesterov": True},
    "AdamGnT": {"opt": "adam", "step_size": 0.01, "weight_decay": 0.01, "amsgrad": True},
    "AdamGnT, decoupled": {"opt": "adamw", "step_size": 0.01, "betas": (0.0, 0.99)},
    "torch's Adam": {"opt": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.01)},
    "torch's AdamW": {"opt": lambda p: torch.optim.AdamW(p, lr=0.01, maximize=True)},
}


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    return run_graphs_uncompiled(monkeypatch)


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_runs_as_without(settings, compiled):
    eager, graph = eager_and_compiled(mlp().double(), **settings)
    assert run_both(eager, graph, range(60)) > 20
    assert_states_close(eager, graph)
    assert len(compiled) == 1


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_each_step_from_the_same_state(settings):
    """In float32, from the ordinary learner's state: no rounding is carried on."""
    net = conv_net()
    net[0].bias = None  # before a batch norm its gradient is rounding, which Adam makes steps of
    eager, graph = eager_and_compiled(net, **settings)
    for t in range(12):
        run_both(eager, graph, range(t, t + 1), *IMAGE_SHAPE)
        assert_states_close(eager, graph, rtol=2e-4, atol=2e-6)
        graph.load_state_dict(state(eager))


@pytest.mark.parametrize("opt", ["sgd", "adam", "adamw"])
def test_the_baseline(opt, compiled):
    eager, graph = eager_and_compiled(conv_net().double(), gnt.Backprop, opt=opt, step_size=0.01)
    assert run_both(eager, graph, range(12), *IMAGE_SHAPE) == 0
    assert_states_close(eager, graph)
    assert len(compiled) == 1


@pytest.mark.parametrize("utility", MEASURES)
def test_measures(utility, compiled):
    eager, graph = eager_and_compiled(mlp().double(), utility=utility, step_size=0.02)
    assert run_both(eager, graph, range(30)) > 10
    assert_states_close(eager, graph)
    assert len(compiled) == 1


@pytest.mark.parametrize(
    "settings", [{"accumulate": False}, {"accumulate": "one"}, {"bias_transfer": False}, {"decay_rate": 0.0}]
)
def test_settings(settings):
    eager, graph = eager_and_compiled(mlp().double(), step_size=0.02, **settings)
    assert run_both(eager, graph, range(30)) > 10
    assert_states_close(eager, graph)


def test_a_measure_of_ones_own():
    gnt.register_utility(
        "own", lambda s: (s.deviation * s.outgoing).mean(1) / s.group.state.correction(s.group.state.age + 1)
    )
    eager, graph = eager_and_compiled(conv_net().double(), utility="own", step_size=0.02)
    assert run_both(eager, graph, range(20), *IMAGE_SHAPE) > 10
    assert_states_close(eager, graph)


class Predicts(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = mlp()

    def predict(self, x):
        first, second = self.layers[:2](x), self.layers[:4](x)
        return self.layers(x), [first, second]


class Branches(nn.Module):
    """Units with two consumers, groups of channels, and a normalisation of the whole."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.grouped, self.norm = (
            nn.Conv2d(1, 8, 3),
            nn.Conv2d(8, 8, 3, groups=2, bias=False),
            nn.BatchNorm2d(8),
        )
        self.left, self.right = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x):
        h = self.norm(self.grouped(torch.relu(self.up(x)))).relu().amax((2, 3))
        return self.left(h) + self.right(h)


@pytest.mark.parametrize("opt", ["sgd", "adam"])
def test_features_that_the_network_gives(opt):
    eager, graph = eager_and_compiled(Predicts().double(), opt=opt, step_size=0.02)
    assert run_both(eager, graph, range(20)) > 10
    assert_states_close(eager, graph)


@pytest.mark.parametrize("opt", ["sgd", "adam"])
def test_traced_groups(opt):
    learners = []
    for compiled in (False, True):
        net = Branches().double()
        groups = gnt.trace(net, torch.zeros(2, *IMAGE_SHAPE, dtype=torch.float64))
        settings = {"replacement_rate": 0.1, "maturity_threshold": 2, "generator": torch.Generator().manual_seed(5)}
        learners.append(
            gnt.ContinualBackprop(net, opt=opt, step_size=0.02, layers=groups, compile=compiled, **settings)
        )
    assert run_both(*learners, range(20), *IMAGE_SHAPE) > 10
    assert_states_close(*learners)


def test_dropout_draws_what_it_draws_without():
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2)).double()
    eager, graph = eager_and_compiled(net, step_size=0.02)
    assert run_both(eager, graph, range(20)) > 5
    assert_states_close(eager, graph)


def test_autocast():
    eager, graph = eager_and_compiled(mlp(), step_size=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        for t in range(4):
            a, b = (learner.learn(*samples(t, eager.net)) for learner in (eager, graph))
            assert a.output.dtype == b.output.dtype == torch.bfloat16
            torch.testing.assert_close(a.loss, b.loss, rtol=0.05, atol=0.01)


def test_half_precision():
    eager, graph = eager_and_compiled(mlp().bfloat16(), opt="adam", step_size=0.02, replacement_rate=0.0)
    for t in range(4):
        graph.load_state_dict(state(eager))
        a, b = (learner.learn(*samples(t, eager.net)) for learner in (eager, graph))
        torch.testing.assert_close(a.loss, b.loss, rtol=0.05, atol=0.01)
    assert_states_close(eager, graph, rtol=0.05, atol=0.02)


def test_resumed_by_the_other_kind():
    eager, graph = eager_and_compiled(mlp().double(), opt="adam", step_size=0.01)
    run_both(eager, graph, range(15))
    from_eager, from_graph = state(eager), state(graph)
    eager, graph = eager_and_compiled(mlp(seed=1).double(), opt="adam", step_size=0.01)
    eager.load_state_dict(from_graph)
    graph.load_state_dict(from_eager)
    assert run_both(eager, graph, range(15, 40)) > 10
    assert_states_close(eager, graph)


def test_taken_back_in_the_midst():
    eager, graph = eager_and_compiled(mlp().double(), opt="adam", step_size=0.01)
    run_both(eager, graph, range(5))
    saved = state(eager), state(graph)
    run_both(eager, graph, range(5, 20))
    eager.load_state_dict(saved[0])
    graph.load_state_dict(saved[1])
    run_both(eager, graph, range(5, 20))
    assert_states_close(eager, graph)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on(how, compiled):
    eager, graph = eager_and_compiled(mlp().double(), opt="adam", step_size=0.01)
    run_both(eager, graph, range(5))
    copied = copy.deepcopy(graph) if how == "deepcopy" else pickle.loads(pickle.dumps(graph))
    run_both(eager, graph, range(5, 15))
    for t in range(5, 15):
        copied.learn(*samples(t, copied.net))
    assert_states_close(graph, copied)
    assert len(compiled) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("settings", [{"opt": "sgd", "momentum": 0.9}, {"opt": "adam"}, {"utility": "random"}])
def test_a_loss_that_is_not_finite_changes_nothing(settings, bad):
    net = conv_net().double()
    net[0].bias = None  # as above
    eager, graph = eager_and_compiled(net, step_size=0.01, **settings)
    run_both(eager, graph, range(4), *IMAGE_SHAPE)
    before = state(graph)
    x, y = samples(4, graph.net, *IMAGE_SHAPE)
    said = []
    for learner in (eager, graph):
        with pytest.raises(FloatingPointError) as refused:
            learner.learn(x, y * bad)
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert_same(before, state(graph))
    assert run_both(eager, graph, range(5, 15), *IMAGE_SHAPE) > 3
    assert_states_close(eager, graph)


def test_weights_that_are_not_finite_leave_the_engine_as_it_was():
    eager, graph = eager_and_compiled(mlp().double(), step_size=1e-3)
    run_both(eager, graph, range(4))
    before = state(graph)["gnt"]
    said = []
    for learner in (eager, graph):
        for options in learner.opt.param_groups:
            options["lr"] = float("inf")
        with pytest.raises(FloatingPointError) as refused:
            learner.learn(*samples(4, graph.net))
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "group" in said[0]
    assert_same(before, state(graph)["gnt"])


def test_schedules_compile_nothing(compiled):
    eager, graph = eager_and_compiled(mlp().double(), opt="adam", step_size=0.01)
    schedulers = [
        torch.optim.lr_scheduler.OneCycleLR(learner.opt, 0.02, total_steps=30, base_momentum=0.8)
        for learner in (eager, graph)
    ]
    for t in range(25):
        run_both(eager, graph, range(t, t + 1))
        for scheduler in schedulers:
            scheduler.step()
    assert_states_close(eager, graph)
    assert len(compiled) == 1


def test_learners_of_one_shape_share_a_graph(compiled):
    before = compilation_count()
    for seed in range(4):
        eager, graph = eager_and_compiled(mlp(seed=seed).double(), opt="adam", step_size=0.01 * (seed + 1))
        run_both(eager, graph, range(6))
        assert_states_close(eager, graph)
    assert len(compiled) == compilation_count() - before == 1


def test_one_graph_for_each_size_of_batch(compiled):
    eager, graph = eager_and_compiled(mlp().double(), step_size=0.01)
    for t in range(24):
        run_both(eager, graph, range(t, t + 1), n=(8, 3, 5)[t % 3])
    assert len(compiled) == 3
    for n in range(9, 22):
        run_both(eager, graph, range(n, n + 2), n=n)
    with pytest.warns(UserWarning, match="steps of 16 kinds"):
        run_both(eager, graph, range(1), n=30)
    run_both(eager, graph, range(3), n=31)
    assert len(compiled) == 16
    assert_states_close(eager, graph)


def test_modes_and_frozen_parameters_are_seen():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double()
    eager, graph = eager_and_compiled(net, gnt.Backprop, step_size=0.05)
    for learner in (eager, graph):
        learner.learn(*samples(0, net))
    for t in range(1, 16):
        for learner in (eager, graph):
            learner.net[1].train(t % 8 < 4)
            learner.net[0].weight.requires_grad_(t % 4 < 2)
            learner.net[1].momentum = 0.1 if t < 8 else 0.3
        run_both(eager, graph, range(t, t + 1))
    assert_states_close(eager, graph)


def test_the_network_moves_to_another_dtype():
    eager, graph = eager_and_compiled(mlp(), step_size=0.01)
    run_both(eager, graph, range(3))
    for learner in (eager, graph):
        learner.net.double()
    graph.net.load_state_dict(eager.net.state_dict())
    run_both(eager, graph, range(3, 8))
    assert_states_close(eager, graph, rtol=1e-4, atol=1e-5)


def test_earlier_forwards_count_as_they_do_without():
    eager, graph = eager_and_compiled(mlp().double(), step_size=0.01)
    for t in range(12):
        if t % 3 == 2:
            for learner in (eager, graph):
                learner.net(samples(100 + t, learner.net)[0])
        run_both(eager, graph, range(t, t + 1))
    assert not graph.gnt.waiting
    assert_states_close(eager, graph)


def test_a_parameter_in_the_place_of_another():
    """The optimizer does not hold it: it stays as it is, and what was there is no longer part of the network."""
    eager, graph = eager_and_compiled(mlp().double(), gnt.Backprop, step_size=0.05, momentum=0.9)
    for t in range(10):
        if t == 4:
            for learner in (eager, graph):
                learner.net[2].weight = nn.Parameter(torch.full((6, 8), 0.1, dtype=torch.float64))
        run_both(eager, graph, range(t, t + 1))
    assert_states_close(eager, graph)
    assert graph.net[2].weight.eq(0.1).all()


def test_state_that_is_gone():
    eager, graph = eager_and_compiled(mlp().double(), step_size=0.01, momentum=0.9)
    run_both(eager, graph, range(4))
    for learner in (eager, graph):
        learner.opt.state.clear()
    run_both(eager, graph, range(4, 10))
    assert_states_close(eager, graph)
