"""Two engines on the same units, each told of what the other replaces."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import gnt
from gnt.optim import CBPAdam
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, full_state, mlp
from tests.replacement.copy_methods import COPY_METHODS


def backward_and_step(net, optimizer, t):
    x, y = batch(t)
    optimizer.zero_grad()
    F.mse_loss(net(x), y).backward()
    optimizer.step()


def no_replacement(layers, optimizer=None, **settings):
    return gnt.GnT(layers, optimizer, replacement_rate=0.0, maturity_threshold=2, **settings)


def test_units_replaced_before_the_others_update_have_age_0_after_it():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    importance = gnt.importance.Importance(net)
    engine, other = no_replacement(net), no_replacement(net)
    engine.follow(other).follow(importance)
    for t in range(4):
        backward_and_step(net, optimizer, t)
        engine.update()
        if t == 2:  # the features that wait for the other's update are those of the unit before
            engine.replace([[1, 5], [0]])
        other.update()
        importance.update()
    for group, units in zip(other.groups, ([1, 5], [0]), strict=True):
        assert group.state.age.tolist() == [1 if unit in units else 4 for unit in range(group.num_units)]
        assert group.state.eligible == group.num_units - len(units)
        assert group.state.replaced == 0
    for values, group in zip(importance.groups, other.groups, strict=True):
        assert values.state.age.equal(group.state.age)
    engine.discard()
    x = batch(3)[0]
    h = torch.relu(net[0](x))
    torch.testing.assert_close(
        other.groups[0].state.corrected_mean_features[0, [1, 5]], h.mean(0)[[1, 5]], atol=0.1, rtol=0
    )


def test_a_skipped_step_drops_the_features_that_were_of_the_units_before():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine, other = no_replacement(net), no_replacement(net)
    engine.follow(other)
    net(batch(0)[0]).sum().backward()
    engine.replace([[1], []])
    other.discard()
    backward_and_step(net, optimizer, 1)
    other.update()
    assert other.groups[0].state.age.unique().tolist() == [1]


def test_redo_does_not_replace_units_again_that_an_engine_has_just_replaced():
    net = mlp()
    with torch.no_grad():
        net[0].bias[[2, 3]] = -100.0  # dead units
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = no_replacement(net)
    redo = gnt.ReDo(net, tau=0.0, period=1, follow=[engine])
    engine.follow(redo)
    backward_and_step(net, optimizer, 0)
    engine.update()
    engine.replace([[2], []])
    assert redo.step()[0].tolist() == [3]
    assert engine.groups[0].state.age.tolist() == [0 if unit in (2, 3) else 1 for unit in range(8)]
    assert (engine.groups[0].state.replaced, redo.groups[0].state.replaced) == (1, 1)
    assert (engine.followers, redo.followers) == ((redo,), (engine,))
    redo.unfollow(engine)
    assert redo.followers == ()


def test_a_selection_is_not_taken_for_that_of_the_latest_update_once_the_other_has_replaced_units():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine, other = no_replacement(net), gnt.GnT(net, replacement_rate=0.5, maturity_threshold=0)
    engine.follow(other)
    backward_and_step(net, optimizer, 0)
    backward_and_step(net, optimizer, 1)
    other.update()
    units = other.select()
    assert len(units[0]) > 1
    engine.replace([units[0][:1], []])
    other.replace(units)
    for group in other.groups:
        assert group.state.eligible == int(group.state.mature.sum())


def attached_pair():
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    first, second = (
        gnt.GnT(net, optimizer, generator=torch.Generator().manual_seed(i), **FREQUENT_REPLACEMENT, utility=utility)
        for i, utility in enumerate(["contribution", "weight"])
    )
    first.follow(second).attach()
    second.follow(first).attach()
    return net, optimizer, [first, second]


def run(net, optimizer, engines, steps):
    for t in steps:
        backward_and_step(net, optimizer, t)
        yield [[set(units.tolist()) for units in engine.replaced] for engine in engines]


def state(net, optimizer, engines):
    return [full_state(net, optimizer), [copy.deepcopy(engine.state_dict()) for engine in engines]]


def check_ages(engines, steps):
    """Check that each unit has the same age in both engines: the number of steps since either of them replaced it.

    Args:
        engines: the two engines.
        steps: yields, after each step, what each engine has replaced.
    """
    born = {}  # number of the step after which each unit is new
    for t, replaced in enumerate(steps, start=1):
        for number, (mine, theirs) in enumerate(zip(*replaced, strict=True)):
            assert not mine & theirs
            for unit in mine | theirs:
                assert t - born.get((number, unit), 0) > FREQUENT_REPLACEMENT["maturity_threshold"]
                born[number, unit] = t
            for engine in engines:
                state = engine.groups[number].state
                assert state.age.tolist() == [t - born.get((number, unit), 0) for unit in range(state.num_units)]
                assert state.eligible == int(state.mature.sum())
    assert all(engine.groups[0].state.replaced > 5 for engine in engines)


def test_engines_that_follow_each_other_may_be_attached_to_one_optimizer():
    net, optimizer, engines = attached_pair()
    check_ages(engines, run(net, optimizer, engines, range(30)))


def test_a_learners_engine_and_an_attached_one_follow_each_other():
    """The learner takes its features before the optimizer's step, in which the attached engine replaces units."""
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    attached = gnt.GnT(net, optimizer, **FREQUENT_REPLACEMENT).attach()
    learner = gnt.ContinualBackprop(net, opt=optimizer, follow=[attached], **FREQUENT_REPLACEMENT)
    attached.follow(learner.gnt)

    def steps():
        for t in range(30):
            learner.learn(*batch(t))
            yield [[set(units.tolist()) for units in engine.replaced] for engine in (learner.gnt, attached)]

    check_ages([learner.gnt, attached], steps())


@pytest.mark.parametrize("make_copy", COPY_METHODS.values(), ids=COPY_METHODS)
def test_copies_of_attached_engines_follow_each_other(make_copy):
    original = attached_pair()
    list(run(*original, range(8)))
    net, optimizer, engines = make_copy(original)
    assert engines[0].followers == (engines[1],)
    assert engines[1].followers == (engines[0],)
    for each in (original, (net, optimizer, engines)):
        list(run(*each, range(8, 20)))
    assert_same(state(net, optimizer, engines), state(*original))


def test_attached_engines_that_do_not_follow_each_other_are_refused():
    net = mlp()
    optimizer = CBPAdam(net, lr=0.01)
    engine = gnt.GnT(net, optimizer, follow=[optimizer.gnt])
    with pytest.raises(RuntimeError, match=r"or let each follow the other: engine\.follow\(other\)"):
        engine.attach()
    optimizer.gnt.follow(engine)
    engine.attach()
    with pytest.raises(RuntimeError, match=r"both engines are attached to this CBPAdam.*close\(\) one of them"):
        engine.unfollow(optimizer.gnt)
    engine.close()
    optimizer.gnt.unfollow(engine)


def test_an_optimizer_passes_followers_to_its_engine():
    net = mlp()
    reg = gnt.L2Init(net, 1e-2)
    optimizer = CBPAdam(net, lr=0.01, follow=[reg], **FREQUENT_REPLACEMENT)
    assert optimizer.gnt.followers == (reg,)
    for t in range(12):
        backward_and_step(net, optimizer, t)
        new = optimizer.gnt.replaced[0]
        assert torch.equal(reg.start[0][new], net[0].weight[new])
        assert torch.equal(reg.start[2][:, new], net[2].weight[:, new])
    assert optimizer.gnt.groups[0].state.replaced > 3
