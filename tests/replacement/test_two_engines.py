"""Two attached engines: refused if they share units, allowed in one optimizer if their units are disjoint."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.optim import CBPSGD, CBPAdam
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, full_state, mlp
from tests.replacement.copy_methods import COPY_METHODS

ATTACH_METHODS = {
    "attach": lambda net: gnt.GnT(net, torch.optim.SGD(net.parameters(), lr=0.1)).attach(),
    "CBPSGD": lambda net: CBPSGD(net, lr=0.1).gnt,
    "CBPAdam": lambda net: CBPAdam(net, lr=0.1).gnt,
}
first_method = pytest.mark.parametrize("first", ATTACH_METHODS)
second_method = pytest.mark.parametrize("second", ATTACH_METHODS)


@first_method
@second_method
def test_of_two_engines_on_one_group_only_the_newer_may_step(first, second):
    net = mlp()
    old, new = ATTACH_METHODS[first](net), ATTACH_METHODS[second](net)
    F.mse_loss(net(batch(0)[0]), batch(0)[1]).backward()
    assert (old.waiting, new.waiting) == (False, True)
    before = full_state(net, old.optimizer)
    with pytest.raises(RuntimeError, match=r"shares units of group '0' with one that was attached later.*step that"):
        old.optimizer.step()
    assert_same(full_state(net, old.optimizer), before)
    new.optimizer.step()
    assert (old.updates, new.updates) == (0, 1)
    assert [len(m._forward_pre_hooks) for m in net[2::2]] == [1, 1]
    old.close()
    old.optimizer.step()


def test_two_engines_on_one_group_of_one_optimizer_are_refused():
    net = mlp()
    optimizer = CBPSGD(net, lr=0.1, layers=net[2:])
    with pytest.raises(RuntimeError, match=r"has units of group '2': close\(\) that one"):
        gnt.GnT(net, optimizer).attach()
    gnt.GnT(net[:3], optimizer).attach()


@first_method
@second_method
@pytest.mark.parametrize("end", ["closed", "deleted"])
def test_a_closed_or_deleted_engine_does_not_block_another(first, second, end):
    net = mlp()
    engine = ATTACH_METHODS[first](net)
    gc.disable()
    try:
        if end == "closed":
            engine.close()
        else:
            del engine  # engine and optimizer refer to each other
        assert ATTACH_METHODS[second](net).groups[0].producer is net[0]
    finally:
        gc.enable()


@pytest.mark.parametrize("make_copy", COPY_METHODS.values(), ids=COPY_METHODS)
def test_a_copied_network_may_have_an_engine_of_its_own(make_copy):
    net = mlp()
    optimizer = CBPSGD(net, lr=0.1)
    net_copy, _ = make_copy((net, optimizer))
    ATTACH_METHODS["attach"](make_copy(net_copy))
    optimizer.step()


def test_an_unattached_engine_may_share_units_with_an_attached_one():
    net = mlp()
    engine = ATTACH_METHODS["attach"](net)
    gnt.GnT(net, engine.optimizer).close()


def actor_and_critic():
    torch.manual_seed(0)
    net = nn.ModuleDict({"actor": mlp(4, 8, 6, 2), "critic": mlp(4, 7, 2, seed=1)})
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    engines = [
        gnt.GnT(
            net[name], optimizer, generator=torch.Generator().manual_seed(i), **FREQUENT_REPLACEMENT, utility=utility
        ).attach()
        for i, (name, utility) in enumerate([("actor", "contribution"), ("critic", "adaptable_contribution")])
    ]
    return net, optimizer, engines


def learn(net, optimizer, steps):
    for t in steps:
        x, y = batch(t)
        optimizer.zero_grad()
        sum(F.mse_loss(head(x), y) for head in net.values()).backward()
        optimizer.step()


def state(net, optimizer, engines):
    return [full_state(net, optimizer), [copy.deepcopy(engine.state_dict()) for engine in engines]]


def test_two_engines_of_one_optimizer_are_saved_and_loaded():
    uninterrupted, resumed = actor_and_critic(), actor_and_critic()
    learn(*uninterrupted[:2], range(10))
    saved = copy.deepcopy([uninterrupted[0].state_dict(), uninterrupted[1].state_dict()])
    assert [len(saved[1][key]["groups"]) for key in ("gnt", "gnt_1")] == [2, 1]
    resumed[0].load_state_dict(saved[0])
    resumed[1].load_state_dict(saved[1])
    for run in (uninterrupted, resumed):
        learn(*run[:2], range(10, 20))
    assert_same(state(*resumed), state(*uninterrupted))
    assert [engine.updates for engine in uninterrupted[2]] == [20, 20]


def test_two_engines_of_one_optimizer_are_copied_with_their_keys():
    original = actor_and_critic()
    learn(*original[:2], range(10))
    net, optimizer, (critic, actor) = copy.deepcopy((original[0], original[1], original[2][::-1]))
    for run in (original, (net, optimizer)):
        learn(*run[:2], range(10, 16))
    assert_same(state(net, optimizer, [actor, critic]), state(*original))


def test_closing_an_engine_removes_its_state_dict_key():
    _net, optimizer, (actor, critic) = actor_and_critic()
    actor.close()
    assert sorted(k for k in optimizer.state_dict() if "gnt" in k) == ["gnt_1"]
    critic.close()
    assert not [k for k in optimizer.state_dict() if "gnt" in k]


def test_parameters_may_be_in_several_groups_of_the_optimizer():
    net = mlp()
    groups = [{"params": [net[0].weight, net[4].weight]}, {"params": [net[0].bias, *net[2].parameters()], "lr": 0.5}]
    gnt.GnT(net, torch.optim.SGD(groups, lr=0.1)).attach().close()
    with pytest.raises(ValueError, match=r"SGD does not hold 4\.weight"):
        gnt.GnT(net, torch.optim.SGD([*groups[1:], {"params": [net[0].weight]}], lr=0.1))
