"""Two engines: on the same units refused while both are alive, on units of their own welcome in one optimizer."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.optim import CBPSGD, CBPAdam
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, full_state, mlp

WAYS = {
    "attach": lambda net: gnt.GnT(net, torch.optim.SGD(net.parameters(), lr=0.1)).attach(),
    "CBPSGD": lambda net: CBPSGD(net, lr=0.1).gnt,
    "CBPAdam": lambda net: CBPAdam(net, lr=0.1).gnt,
}
FIRST = pytest.mark.parametrize("first", WAYS)
SECOND = pytest.mark.parametrize("second", WAYS)


@FIRST
@SECOND
def test_of_two_on_one_group_the_newer_acts_and_the_other_is_refused(first, second):
    net = mlp()
    old, new = WAYS[first](net), WAYS[second](net)
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


def test_two_on_one_group_of_one_optimizer_are_refused():
    net = mlp()
    optimizer = CBPSGD(net, lr=0.1, layers=net[2:])
    with pytest.raises(RuntimeError, match=r"has units of group '2': close\(\) that one"):
        gnt.GnT(net, optimizer).attach()
    gnt.GnT(net[:3], optimizer).attach()


@FIRST
@SECOND
@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_one_that_is_gone_does_not_count(first, second, end):
    net = mlp()
    engine = WAYS[first](net)
    gc.disable()
    try:
        if end == "closed":
            engine.close()
        else:
            del engine  # it and its optimizer hold each other
        assert WAYS[second](net).groups[0].producer is net[0]
    finally:
        gc.enable()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_a_copy_is_another_network(copied):
    net = mlp()
    optimizer = CBPSGD(net, lr=0.1)
    twin, _ = copied((net, optimizer))
    WAYS["attach"](copied(twin))
    optimizer.step()


def test_beside_an_attached_engine_others_may_be_built_and_stepped_by_hand():
    net = mlp()
    engine = WAYS["attach"](net)
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


def test_two_engines_of_one_optimizer_are_saved_and_loaded_each():
    whole, resumed = actor_and_critic(), actor_and_critic()
    learn(*whole[:2], range(10))
    saved = copy.deepcopy([whole[0].state_dict(), whole[1].state_dict()])
    assert [len(saved[1][key]["groups"]) for key in ("gnt", "gnt_1")] == [2, 1]
    resumed[0].load_state_dict(saved[0])
    resumed[1].load_state_dict(saved[1])
    for run in (whole, resumed):
        learn(*run[:2], range(10, 20))
    assert_same(state(*resumed), state(*whole))
    assert [engine.updates for engine in whole[2]] == [20, 20]


def test_two_engines_of_one_optimizer_are_copied_with_their_keys():
    whole = actor_and_critic()
    learn(*whole[:2], range(10))
    net, optimizer, (critic, actor) = copy.deepcopy((whole[0], whole[1], whole[2][::-1]))
    for run in (whole, (net, optimizer)):
        learn(*run[:2], range(10, 16))
    assert_same(state(net, optimizer, [actor, critic]), state(*whole))


def test_a_key_that_was_given_back_is_taken_again():
    _net, optimizer, (actor, critic) = actor_and_critic()
    actor.close()
    assert sorted(k for k in optimizer.state_dict() if "gnt" in k) == ["gnt_1"]
    critic.close()
    assert not [k for k in optimizer.state_dict() if "gnt" in k]


def test_an_optimizer_that_holds_the_parameters_in_groups_holds_them():
    net = mlp()
    groups = [{"params": [net[0].weight, net[4].weight]}, {"params": [net[0].bias, *net[2].parameters()], "lr": 0.5}]
    gnt.GnT(net, torch.optim.SGD(groups, lr=0.1)).attach().close()
    with pytest.raises(ValueError, match=r"SGD does not hold 4\.weight"):
        gnt.GnT(net, torch.optim.SGD([*groups[1:], {"params": [net[0].weight]}], lr=0.1))
