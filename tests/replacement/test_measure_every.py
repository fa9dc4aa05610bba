"""``measure_every``: utilities measured in every k-th update only, in each kind of engine."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

import gnt
from tests.helpers.compiled_learners import run_graphs_uncompiled
from tests.helpers.small_runs import assert_same, batch, full_state, make_run, mlp, train
from tests.replacement import layer_runs

SETTINGS = {"replacement_rate": 0.1, "maturity_threshold": 4, "decay_rate": 0.9, "measure_every": 3}


def backward(net, optimizer, t, parts=(0, 50)):
    """Two micro-batches, or one."""
    optimizer.zero_grad()
    for part in parts:
        x, y = batch(t + part)
        F.mse_loss(net(x), y).backward()


@pytest.mark.parametrize("utility", ["gradient", "gradient_activation", "replacement_cost", "adaptable_contribution"])
def test_averages_are_those_of_an_engine_that_makes_every_third_update_only(utility):
    net, optimizer, engine = make_run(
        mlp(), **{**SETTINGS, "utility": utility, "replacement_rate": 0.0, "kernels": False}
    )
    rare = gnt.GnT(net, optimizer, utility=utility, decay_rate=0.9**3, replacement_rate=0.0, kernels=False)
    for t in range(1, 12):
        backward(net, optimizer, t, (0,) if utility == "adaptable_contribution" else (0, 50))
        optimizer.step()
        engine.step()
        if t % 3 == 0:
            rare.step()
        else:
            rare.discard()
        assert engine.groups[0].state.age.unique().tolist() == [t]
    for mine, theirs in ((a.state, b.state) for a, b in zip(engine.groups, rare.groups, strict=True)):
        for name in ("utility", "corrected_utility", "mean_features", "corrected_mean_features"):
            assert_same(getattr(mine, name), getattr(theirs, name), name)


@pytest.mark.parametrize("utility", ["contribution", "gradient_activation"])
def test_features_are_recorded_for_measured_updates_only(utility):
    net, optimizer, engine = make_run(mlp(), **{**SETTINGS, "utility": utility})
    seen = []
    net[2].register_forward_hook(lambda module, args, output: seen.append(args[0]))
    for t in range(1, 7):
        backward(net, optimizer, t)
        assert engine.waiting
        recorded = [len(tap.recorded()) for tap in engine.feature_buffer.taps]
        assert recorded == ([2, 2] if t % 3 == 0 else [0, 0])
        assert seen[-1]._is_view() == (utility == "gradient_activation" and t % 3 == 0)
        optimizer.step()
        engine.step()
        assert not engine.waiting


def test_all_kinds_of_engines_replace_the_same_units(monkeypatch):
    """Attached, by a learner, and by a learner whose steps are graphs, of which there are two kinds."""
    graphs = run_graphs_uncompiled(monkeypatch)
    runs = []
    for kind in ("attached", "learner", "compiled"):
        net, generator = mlp(), torch.Generator().manual_seed(5)
        if kind == "attached":
            optimizer = gnt.optim.CBPSGD(net, lr=0.05, generator=generator, **SETTINGS)
            train(net, optimizer, None, range(20))
            runs.append((net, optimizer.gnt))
            continue
        compiled = {"compile": kind == "compiled"}
        learner = gnt.ContinualBackprop(net, step_size=0.05, generator=generator, **compiled, **SETTINGS)
        for t in range(20):
            learner.learn(*batch(t))
        runs.append((net, learner.gnt))
    assert len(graphs) == 2
    for (net, engine), (other, its) in pairwise(runs):
        assert [group.state.replaced for group in engine.groups] == [group.state.replaced for group in its.groups]
        assert min(group.state.replaced for group in engine.groups) > 5
        for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)
        for mine, theirs in zip(engine.groups, its.groups, strict=True):
            assert_same(mine.state.born, theirs.state.born)
            assert_same(mine.state.last_active, theirs.state.last_active)
            torch.testing.assert_close(mine.state.utility, theirs.state.utility)


def test_layers_replace_the_same_units_as_an_engine():
    net, plain = layer_runs.build(), layer_runs.build()
    settings = {**SETTINGS, "generator": torch.Generator().manual_seed(5)}
    net[3] = gnt.CBPLinear(net[0], net[4], norms=net[1], **settings)
    plain[3] = torch.nn.Identity()
    optimizer = layer_runs.sgd(plain)
    settings["generator"] = torch.Generator().manual_seed(5)
    engine = gnt.GnT([*plain[:3], plain[4]], optimizer, **settings).attach()
    layer_runs.run(net, layer_runs.sgd(net), range(20))
    layer_runs.run(plain, optimizer, range(20))
    assert engine.groups[0].state.replaced > 5
    assert_same(net[3].group.state.state_dict(), engine.groups[0].state.state_dict())
    assert_same(net[0].weight, plain[0].weight)


def test_an_ensemble_equals_its_members_by_themselves():
    def run(*seeds):
        ensemble = gnt.Ensemble(mlp, seeds=seeds, step_size=0.05, **SETTINGS)
        for t in range(15):
            x, y = batch(t)
            ensemble.learn(*(tensor.expand(len(seeds), *tensor.shape) for tensor in (x, y)))
        return [group.state for group in ensemble.gnt.groups]

    for both, first in zip(run(1, 2), run(1), strict=True):
        assert first.replaced > 4
        assert first.measured_age.max() <= 5
        assert_same(both.born.view(2, -1)[0], first.born)
        torch.testing.assert_close(both.utility.view(2, -1)[0], first.utility)


def test_a_compiled_network_ages_units_in_the_updates_between():
    net, optimizer, engine = make_run(mlp(), **{**SETTINGS, "replacement_rate": 0.0})
    train(torch.compile(net, backend="eager"), optimizer, engine, range(7))
    assert engine.groups[0].state.measured_age.unique().tolist() == [2]
    assert engine.groups[0].state.age.unique().tolist() == [7]


def test_a_saved_engine_must_have_the_same_setting():
    net, optimizer, engine = make_run(mlp(), **SETTINGS)
    train(net, optimizer, engine, range(7))
    saved, other = engine.state_dict(), make_run(mlp(), **{**SETTINGS, "measure_every": 1})[2]
    before = full_state(mlp(), None, other)
    with pytest.raises(ValueError, match=r"over every 3. update \(measure_every\), this engine measures every 1."):
        other.load_state_dict(saved)
    assert_same(full_state(mlp(), None, other), before)
    earlier = copy.deepcopy(other.state_dict())
    del earlier["measure_every"]  # states of earlier versions
    other.load_state_dict(earlier)


@pytest.mark.parametrize("value", [0, 6, 2.0, True, "3"])
def test_the_setting_is_an_integer_up_to_the_maturity_threshold_plus_1(value):
    with pytest.raises(ValueError, match=r"measure_every must be an integer from 1 to .* here 5, .* got "):
        gnt.GnT(mlp(), maturity_threshold=4, measure_every=value)
    engine = gnt.GnT(mlp(), maturity_threshold=4, measure_every=5)
    assert "measure_every=5" in repr(engine)
    with pytest.raises(ValueError, match="here 4"):
        engine.maturity_threshold = 3
