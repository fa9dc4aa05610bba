"""Settings assigned to a running engine: refused as at construction, or in force from the next step on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, make_run, mlp, train
from tests.helpers.tasks_in_turn import TasksInTurn

RUNNING = {"replacement_rate": 0.2, "maturity_threshold": 3, "decay_rate": 0.9, "init": "kaiming", "accumulate": True}
REFUSED = [
    ("replacement_rate", 10, ValueError, r"replacement_rate must be a number in \[0, 1\], got 10"),
    ("replacement_rate", 5.0, ValueError, "got 5.0"),
    ("maturity_threshold", -3, ValueError, "maturity_threshold must be an integer >= 0, in updates, got -3"),
    ("decay_rate", 1.0, ValueError, r"decay_rate must be a number in \[0, 1\), got 1.0"),
    ("init", "he", ValueError, "init must be one of .*, got 'he'"),
    ("accumulate", "two", TypeError, "accumulate must be True, False or 'one', got 'two'"),
    ("bias_transfer", 1, TypeError, "bias_transfer must be True or False, got 1"),
    ("kernels", "yes", TypeError, "kernels must be True, False or None, got 'yes'"),
    ("generator", 0, TypeError, "generator must be a torch.Generator or None, got int"),
    ("generator", None, TypeError, "generator of a running engine must be a torch.Generator, got None"),
    ("process_group", 3, TypeError, "process_group must be a torch process group, None or False, got 3"),
    (
        "utility",
        "weight",
        AttributeError,
        "averages are those of 'contribution'; build a new GnT with utility=",
    ),
    ("activation", "tanh", AttributeError, "build a new GnT with activation='tanh'"),
    ("measure_every", 2, AttributeError, "averages count every 1. update; build a new GnT with measure_every=2"),
    ("measure_every", 0, AttributeError, "measure_every of an engine cannot be changed"),
]


def run(**settings):
    return make_run(mlp(), **{**RUNNING, **settings})


@pytest.mark.parametrize(("name", "value", "error", "message"), REFUSED)
def test_a_refused_value_changes_nothing(name, value, error, message):
    engine = run()[2]
    before, text = dict(vars(engine)), repr(engine)
    with pytest.raises(error, match=message):
        setattr(engine, name, value)
    assert vars(engine) == before
    assert repr(engine) == text


@pytest.mark.parametrize("name", ["decay_rate", "maturity_threshold", "strict", "measure_every"])
def test_states_of_groups_refuse_what_their_engine_sets(name):
    state = run()[2].groups[0].state
    with pytest.raises(AttributeError, match=f"{name} of a group's state is set by its engine: assign engine"):
        setattr(state, name, 1)


CHANGES = [
    ("replacement_rate", 1), ("maturity_threshold", 0), ("maturity_threshold", 9), ("accumulate", False),
    ("accumulate", "one"), ("init", "lecun"), ("bias_transfer", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_a_changed_setting_acts_like_one_given_at_construction(name, value):
    changed, built = run(), run(**{name: value})
    train(*changed, range(6))
    setattr(changed[2], name, value)
    assert repr(changed[2]) == repr(built[2]) or name == "bias_transfer"
    built[0].load_state_dict(changed[0].state_dict())
    built[1].load_state_dict(copy.deepcopy(changed[1].state_dict()))
    built[2].load_state_dict(changed[2].state_dict())
    assert built[2].report().groups == changed[2].report().groups
    assert_same(train(*changed, range(6, 14)), train(*built, range(6, 14)))
    assert_same(changed[0].state_dict(), built[0].state_dict())


@pytest.mark.parametrize("utility", ["contribution", "zero_contribution", "random"])
def test_a_new_decay_rate_keeps_the_corrected_averages_and_then_acts(utility):
    net, optimizer, engine = run(utility=utility)
    train(net, optimizer, engine, range(6))
    state = engine.groups[0].state
    before = state.corrected_utility.clone(), state.corrected_mean_features.clone()
    engine.decay_rate = 0.0
    torch.testing.assert_close((state.corrected_utility, state.corrected_mean_features), before)
    feature = torch.rand(4, 8)
    engine.update([feature, torch.rand(4, 6)])
    torch.testing.assert_close(state.mean_feature, feature.mean(0))  # the latest value is all that is left


def test_a_new_decay_rate_keeps_the_corrected_means_of_a_tap_that_missed_updates():
    net = TasksInTurn()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    engine = gnt.GnT(net.groups((0, 3)), optimizer, **{**RUNNING, "replacement_rate": 0.0})
    for t in range(6):
        optimizer.zero_grad()
        net(torch.randn(8, 4, dtype=torch.float64), (0, 3) if t % 3 == 0 else (0,)).square().mean().backward()
        optimizer.step()
        engine.step()
    state = engine.groups[0].state
    assert state.missed is not None
    assert state.missed.tolist() == [[0] * 7, [4] * 7, [4] * 7]
    before = state.corrected_utility.clone(), state.corrected_mean_features.clone()
    engine.decay_rate = 0.5
    torch.testing.assert_close((state.corrected_utility, state.corrected_mean_features), before)


def test_a_new_generator_makes_all_draws():
    draws = []
    for _ in range(2):
        net, optimizer, engine = run(accumulate=False, maturity_threshold=0)
        torch.rand(len(draws) + 1, generator=engine.generator)
        engine.generator = torch.Generator().manual_seed(3)
        train(net, optimizer, engine, range(5))
        draws.append(net.state_dict())
    assert_same(*draws)


def test_kernels_are_used_from_the_assignment_on():
    plain, kernels = run(), run()
    for each in (plain, kernels):
        train(*each, range(3))
    kernels[2].kernels = True
    assert kernels[2].importance.evaluator.parts[0].uses_kernels
    assert_same(train(*plain, range(3, 9)), train(*kernels, range(3, 9)))


def test_settings_of_cbp_layers_redo_and_cbp_optimizers_are_checked():
    first, second = nn.Linear(4, 8), nn.Linear(8, 2)
    layer = gnt.CBPLinear(first, second)
    optimizer = gnt.optim.CBPSGD(mlp(), **FREQUENT_REPLACEMENT)
    for engine in (layer.engine, optimizer.gnt):
        with pytest.raises(ValueError, match="replacement_rate must be"):
            engine.replacement_rate = 10
    layer.engine.replacement_rate = 0.5
    assert "replacement_rate=0.5" in repr(layer)
    redo = gnt.ReDo(mlp())
    for name, value in (("tau", -1), ("tau", "0.1"), ("period", 0), ("period", 2.5)):
        with pytest.raises(ValueError, match=f"{name} must be .*, got {value!r}"):
            setattr(redo, name, value)
    redo.tau, redo.period = 1, 7
    assert "tau=1, period=7" in repr(redo)
    assert redo.report().next_check == 7
