"""A step captured as a graph gives the results of the eager step: the same numbers, replaced units and errors.

The graphs run uncompiled here, so no compiler is needed; test_compiler.py compiles some.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import gnt
from gnt.learners._compile import cache, compilation_count
from tests.helpers.compiled_learners import (
    assert_states_close,
    eager_and_compiled,
    run_both,
    run_graphs_uncompiled,
    samples,
    state,
)
from tests.helpers.measures import COVERING_MEASURES
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, IMAGE_SHAPE, assert_same, batch, conv_net, mlp

OPTIMIZERS = {
    "sgd": {"opt": "sgd", "step_size": 0.05},
    "sgd, all options": {"opt": "sgd", "step_size": 0.02, "momentum": 0.8, "weight_decay": 0.01, "dampening": 0.3},
    "sgd, nesterov": {"opt": "sgd", "step_size": 0.02, "momentum": 0.8, "nesterov": True},
    "AdamGnT": {"opt": "adam", "step_size": 0.01, "weight_decay": 0.01, "amsgrad": True},
    "AdamGnT, decoupled": {"opt": "adamw", "step_size": 0.01, "betas": (0.0, 0.99)},
    "torch's Adam": {"opt": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.01)},
    "torch's AdamW": {"opt": lambda p: torch.optim.AdamW(p, lr=0.01, maximize=True)},
}


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    return run_graphs_uncompiled(monkeypatch)


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_each_optimizer_gives_the_results_of_the_eager_learner(settings, graphs):
    eager, compiled = eager_and_compiled(mlp().double(), **settings)
    assert run_both(eager, compiled, range(60)) > 20
    assert_states_close(eager, compiled)
    assert len(graphs) == 1


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_each_step_from_the_same_state_gives_the_same_result_in_float32(settings):
    """Each step starts from the eager learner's state, so that rounding does not accumulate."""
    net = conv_net()
    net[0].bias = None  # before a batch norm its gradient is only rounding, which Adam turns into full steps
    eager, compiled = eager_and_compiled(net, **settings)
    for t in range(12):
        run_both(eager, compiled, range(t, t + 1), *IMAGE_SHAPE)
        assert_states_close(eager, compiled, rtol=2e-4, atol=2e-6)
        compiled.load_state_dict(state(eager))


@pytest.mark.parametrize("opt", ["sgd", "adam", "adamw"])
def test_backprop_gives_the_results_of_the_eager_learner(opt, graphs):
    net = conv_net().double()
    net[0].bias = None  # before a batch norm its gradient is only rounding, which Adam turns into full steps
    eager, compiled = eager_and_compiled(net, gnt.Backprop, opt=opt, step_size=0.01)
    assert run_both(eager, compiled, range(12), *IMAGE_SHAPE) == 0
    assert_states_close(eager, compiled)
    assert len(graphs) == 1


@pytest.mark.parametrize("utility", COVERING_MEASURES)
def test_each_utility_measure(utility, graphs):
    eager, compiled = eager_and_compiled(mlp().double(), utility=utility, step_size=0.02)
    assert run_both(eager, compiled, range(30)) > 10
    assert_states_close(eager, compiled)
    assert len(graphs) == 1


@pytest.mark.parametrize(
    "settings", [{"accumulate": False}, {"accumulate": "one"}, {"bias_transfer": False}, {"decay_rate": 0.0}]
)
def test_each_engine_setting(settings):
    eager, compiled = eager_and_compiled(mlp().double(), step_size=0.02, **settings)
    assert run_both(eager, compiled, range(30)) > 10
    assert_states_close(eager, compiled)


def test_a_registered_measure():
    gnt.register_utility(
        "own", lambda s: (s.deviation * s.outgoing).mean(1) / s.group.state.correction(s.group.state.age + 1)
    )
    eager, compiled = eager_and_compiled(conv_net().double(), utility="own", step_size=0.02)
    assert run_both(eager, compiled, range(20), *IMAGE_SHAPE) > 10
    assert_states_close(eager, compiled)


class NetWithPredict(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = mlp()

    def predict(self, x):
        first, second = self.layers[:2](x), self.layers[:4](x)
        return self.layers(x), [first, second]


class BranchedNet(nn.Module):
    """Units with two consumers, a grouped convolution, and a batch norm."""

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
def test_features_returned_by_predict(opt):
    eager, compiled = eager_and_compiled(NetWithPredict().double(), opt=opt, step_size=0.02)
    assert run_both(eager, compiled, range(20)) > 10
    assert_states_close(eager, compiled)


@pytest.mark.parametrize("opt", ["sgd", "adam"])
def test_groups_found_by_trace(opt):
    learners = []
    for compiled in (False, True):
        net = BranchedNet().double()
        groups = gnt.trace(net, torch.zeros(2, *IMAGE_SHAPE, dtype=torch.float64))
        settings = {"replacement_rate": 0.1, "maturity_threshold": 2, "generator": torch.Generator().manual_seed(5)}
        learners.append(
            gnt.ContinualBackprop(net, opt=opt, step_size=0.02, layers=groups, compile=compiled, **settings)
        )
    assert run_both(*learners, range(20), *IMAGE_SHAPE) > 10
    assert_states_close(*learners)


def test_dropout_draws_the_same_random_numbers():
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2)).double()
    eager, compiled = eager_and_compiled(net, step_size=0.02)
    assert run_both(eager, compiled, range(20)) > 5
    assert_states_close(eager, compiled)
    before = torch.get_rng_state()
    x, y = samples(0, net)
    for learner in (eager, compiled):
        with pytest.raises(FloatingPointError):
            learner.learn(x, y * torch.nan)
        assert_same(torch.get_rng_state(), before)


def test_autocast_is_applied():
    eager, compiled = eager_and_compiled(mlp(), step_size=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        for t in range(4):
            a, b = (learner.learn(*samples(t, eager.net)) for learner in (eager, compiled))
            assert a.output.dtype == b.output.dtype == torch.bfloat16
            torch.testing.assert_close(a.loss, b.loss, rtol=0.05, atol=0.01)


def test_bfloat16_network():
    eager, compiled = eager_and_compiled(mlp().bfloat16(), opt="adam", step_size=0.02, replacement_rate=0.0)
    for t in range(4):
        compiled.load_state_dict(state(eager))
        a, b = (learner.learn(*samples(t, eager.net)) for learner in (eager, compiled))
        torch.testing.assert_close(a.loss, b.loss, rtol=0.05, atol=0.01)
    assert_states_close(eager, compiled, rtol=0.05, atol=0.02)


def test_eager_and_compiled_learners_load_each_others_state():
    eager, compiled = eager_and_compiled(mlp().double(), opt="adam", step_size=0.01)
    run_both(eager, compiled, range(15))
    from_eager, from_compiled = state(eager), state(compiled)
    eager, compiled = eager_and_compiled(mlp(seed=1).double(), opt="adam", step_size=0.01)
    eager.load_state_dict(from_compiled)
    compiled.load_state_dict(from_eager)
    assert run_both(eager, compiled, range(15, 40)) > 10
    assert_states_close(eager, compiled)


def test_loading_an_earlier_state_repeats_the_same_steps():
    eager, compiled = eager_and_compiled(mlp().double(), opt="adam", step_size=0.01)
    run_both(eager, compiled, range(5))
    saved = state(eager), state(compiled)
    run_both(eager, compiled, range(5, 20))
    eager.load_state_dict(saved[0])
    compiled.load_state_dict(saved[1])
    run_both(eager, compiled, range(5, 20))
    assert_states_close(eager, compiled)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_continue_without_another_compilation(how, graphs):
    eager, compiled = eager_and_compiled(mlp().double(), opt="adam", step_size=0.01)
    run_both(eager, compiled, range(5))
    copied = copy.deepcopy(compiled) if how == "deepcopy" else pickle.loads(pickle.dumps(compiled))
    run_both(eager, compiled, range(5, 15))
    for t in range(5, 15):
        copied.learn(*samples(t, copied.net))
    assert_states_close(compiled, copied)
    assert len(graphs) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("settings", [{"opt": "sgd", "momentum": 0.9}, {"opt": "adam"}, {"utility": "random"}])
def test_a_nonfinite_loss_changes_nothing(settings, bad):
    net = conv_net().double()
    net[0].bias = None  # as in the test of single steps
    eager, compiled = eager_and_compiled(net, step_size=0.01, **settings)
    run_both(eager, compiled, range(4), *IMAGE_SHAPE)
    before = state(compiled)
    x, y = samples(4, compiled.net, *IMAGE_SHAPE)
    messages = []
    for learner in (eager, compiled):
        with pytest.raises(FloatingPointError) as refused:
            learner.learn(x, y * bad)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert_same(before, state(compiled))
    assert run_both(eager, compiled, range(5, 15), *IMAGE_SHAPE) > 3
    assert_states_close(eager, compiled)


def test_nonfinite_weights_leave_the_engine_unchanged():
    eager, compiled = eager_and_compiled(mlp().double(), step_size=1e-3)
    run_both(eager, compiled, range(4))
    before = state(compiled)["gnt"]
    messages = []
    for learner in (eager, compiled):
        for options in learner.opt.param_groups:
            options["lr"] = float("inf")
        with pytest.raises(FloatingPointError) as refused:
            learner.learn(*samples(4, compiled.net))
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert "group" in messages[0]
    assert_same(before, state(compiled)["gnt"])


def test_learning_rate_schedules_need_no_other_graph(graphs):
    eager, compiled = eager_and_compiled(mlp().double(), opt="adam", step_size=0.01)
    schedulers = [
        torch.optim.lr_scheduler.OneCycleLR(learner.opt, 0.02, total_steps=30, base_momentum=0.8)
        for learner in (eager, compiled)
    ]
    for t in range(25):
        run_both(eager, compiled, range(t, t + 1))
        for scheduler in schedulers:
            scheduler.step()
    assert_states_close(eager, compiled)
    assert len(graphs) == 1


def test_learners_of_one_shape_share_a_graph(graphs):
    before = compilation_count()
    for seed in range(4):
        eager, compiled = eager_and_compiled(mlp(seed=seed).double(), opt="adam", step_size=0.01 * (seed + 1))
        run_both(eager, compiled, range(6))
        assert_states_close(eager, compiled)
    assert len(graphs) == compilation_count() - before == 1


def test_each_batch_size_has_a_graph_up_to_a_limit(graphs, monkeypatch):
    assert cache.MAX_KINDS == 16
    monkeypatch.setattr(cache, "MAX_KINDS", 5)
    eager, compiled = eager_and_compiled(mlp().double(), step_size=0.01)
    for t in range(24):
        run_both(eager, compiled, range(t, t + 1), n=(8, 3, 5)[t % 3])
    assert len(graphs) == 3
    for n in (9, 10):
        run_both(eager, compiled, range(n, n + 2), n=n)
    with pytest.warns(UserWarning, match="steps of 5 kinds"):
        run_both(eager, compiled, range(1), n=30)
    run_both(eager, compiled, range(3), n=31)
    assert len(graphs) == 5
    assert_states_close(eager, compiled)


def test_changes_of_mode_frozen_parameters_and_attributes_take_effect():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double()
    eager, compiled = eager_and_compiled(net, gnt.Backprop, step_size=0.05)
    for learner in (eager, compiled):
        learner.learn(*samples(0, net))
    for t in range(1, 16):
        for learner in (eager, compiled):
            learner.net[1].train(t % 8 < 4)
            learner.net[0].weight.requires_grad_(t % 4 < 2)
            learner.net[1].momentum = 0.1 if t < 8 else 0.3
        run_both(eager, compiled, range(t, t + 1))
    assert_states_close(eager, compiled)


@pytest.mark.filterwarnings("ignore:the weight of .* is frozen:UserWarning")
def test_an_output_layer_frozen_after_the_graph_was_captured():
    eager, graph = eager_and_compiled(mlp(4, 8, 2).double())
    run_both(eager, graph, range(4), 4)
    for frozen in (True, False):
        for learner in (eager, graph):
            learner.net[2].weight.requires_grad_(not frozen)
        run_both(eager, graph, range(4, 8), 4)
        assert_states_close(eager, graph)


def test_a_network_converted_to_another_dtype():
    eager, compiled = eager_and_compiled(mlp(), step_size=0.01)
    run_both(eager, compiled, range(3))
    for learner in (eager, compiled):
        learner.net.double()
    compiled.net.load_state_dict(eager.net.state_dict())
    run_both(eager, compiled, range(3, 8))
    assert_states_close(eager, compiled, rtol=1e-4, atol=1e-5)


def test_earlier_forwards_belong_to_the_next_update():
    eager, compiled = eager_and_compiled(mlp().double(), step_size=0.01)
    for t in range(12):
        if t % 3 == 2:
            for learner in (eager, compiled):
                learner.net(samples(100 + t, learner.net)[0])
        run_both(eager, compiled, range(t, t + 1))
    assert not compiled.gnt.waiting
    assert_states_close(eager, compiled)


def test_a_parameter_exchanged_during_training():
    """The optimizer does not hold the new parameter, so its value stays the same."""
    eager, compiled = eager_and_compiled(mlp().double(), gnt.Backprop, step_size=0.05, momentum=0.9)
    for t in range(10):
        if t == 4:
            for learner in (eager, compiled):
                learner.net[2].weight = nn.Parameter(torch.full((6, 8), 0.1, dtype=torch.float64))
        run_both(eager, compiled, range(t, t + 1))
    assert_states_close(eager, compiled)
    assert compiled.net[2].weight.eq(0.1).all()


def test_an_optimizer_state_cleared_during_training():
    eager, compiled = eager_and_compiled(mlp().double(), step_size=0.01, momentum=0.9)
    run_both(eager, compiled, range(4))
    for learner in (eager, compiled):
        learner.opt.state.clear()
    run_both(eager, compiled, range(4, 10))
    assert_states_close(eager, compiled)


class BuildsOnce(nn.Module):
    """Assigns a buffer in its first forward, as caches of positions are built."""

    def __init__(self):
        super().__init__()
        self.register_buffer("positions", torch.zeros(0))

    def forward(self, x):
        if len(self.positions) < x.shape[1]:
            self.positions = torch.arange(x.shape[1], dtype=x.dtype)
        return x + self.positions


def test_buffers_that_are_assigned_once_are_read():
    plain, compiled = (
        gnt.ContinualBackprop(nn.Sequential(BuildsOnce(), *mlp()).double(), compile=compile, **FREQUENT_REPLACEMENT)
        for compile in (False, True)
    )
    for step in range(8):
        x, y = (each.double() for each in batch(step))
        one, other = plain.learn(x, y), compiled.learn(x, y)
        torch.testing.assert_close(one.loss, other.loss)
    assert compiled.net[0].positions.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.InstanceNorm1d])
def test_running_statistics_that_the_first_step_leaves_as_they_are(norm):
    """A batch of zeros behind a layer without bias has means of 0, those of a new norm."""

    def network():
        torch.manual_seed(0)
        first = [nn.Linear(4, 16, bias=False), nn.Unflatten(1, (8, 2)), norm(8, track_running_stats=True)]
        return nn.Sequential(*first, nn.Flatten(), nn.ReLU(), nn.Linear(16, 2)).double()

    learners = [gnt.Backprop(network(), compile=compile) for compile in (False, True)]
    for step in range(6):
        x, y = (each.double() for each in batch(step))
        for learner in learners:
            learner.learn(x * 0 if step < 2 else x + 2, y)
    plain, compiled = (dict(learner.net.named_buffers()) for learner in learners)
    assert plain["2.running_mean"].abs().min() > 0
    for name, expected in plain.items():
        torch.testing.assert_close(compiled[name], expected, msg=name)
