"""`GnT.rebind`: an engine goes on with a network that was changed on purpose."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, mlp

STATE = ("utility", "mean_features", "born", "last_active")


def build(net, *, how, layers=None):
    settings = {**FREQUENT_REPLACEMENT, "generator": torch.Generator().manual_seed(5)}
    layers = net if layers is None else layers
    if how == "cbp":
        optimizer = gnt.optim.CBPSGD(net, lr=0.05, layers=layers, **settings)
        return optimizer, optimizer.gnt
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    engine = gnt.GnT(layers, optimizer, **settings)
    return optimizer, engine.attach() if how == "attached" else engine


def run(net, optimizer, engine, seeds, *, how):
    for seed in seeds:
        optimizer.zero_grad()
        net(batch(seed)[0]).square().mean().backward()
        optimizer.step()
        if how == "by hand":
            engine.step()


def tensors(state):
    return {name: getattr(state, name).clone() for name in STATE}


each_way = pytest.mark.parametrize("how", ["by hand", "attached", "cbp"])


@each_way
def test_a_copied_head_makes_no_difference(how):
    runs = [mlp(), mlp()]
    ends = []
    for net, surgery in zip(runs, (False, True), strict=True):
        optimizer, engine = build(net, how=how)
        run(net, optimizer, engine, range(5), how=how)
        if surgery:
            net[4] = copy.deepcopy(net[4])
            optimizer.add_param_group({"params": net[4].parameters()})
            assert engine.rebind(net) is engine
        run(net, optimizer, engine, range(5, 12), how=how)
        ends.append((net.state_dict(), engine.state_dict(), engine.report().groups))
    assert_same(*ends)
    assert sum(group.replaced for group in ends[0][2]) > 3


@each_way
def test_a_new_head_is_recorded_and_its_columns_are_zeroed(how):
    net = mlp(4, 8, 2)
    optimizer, engine = build(net, how=how)
    run(net, optimizer, engine, range(5), how=how)
    before, replaced = tensors(engine.groups[0].state), engine.groups[0].state.replaced
    old = net[2]
    net[2] = nn.Linear(8, 5)
    optimizer.add_param_group({"params": net[2].parameters()})
    engine.rebind(net)
    assert_same(tensors(engine.groups[0].state), before)
    assert engine.groups[0].state.replaced == replaced
    kept = copy.deepcopy(old.state_dict())
    run(net, optimizer, engine, range(5, 15), how=how)
    assert engine.updates == 15
    assert engine.groups[0].state.replaced > replaced
    assert_same(old.state_dict(), kept)
    assert not old._forward_pre_hooks


@pytest.mark.parametrize("how", ["by hand", "attached"])
def test_a_head_that_grows_in_place_keeps_the_units(how):
    net = mlp(4, 8, 2)
    optimizer, engine = build(net, how=how)
    run(net, optimizer, engine, range(5), how=how)
    before = tensors(engine.groups[0].state)
    net[2].weight = nn.Parameter(torch.cat([net[2].weight.detach(), torch.zeros(3, 8)]))
    net[2].bias = nn.Parameter(torch.zeros(5))
    optimizer.add_param_group({"params": net[2].parameters()})
    engine.rebind(net)
    assert_same(tensors(engine.groups[0].state), before)
    run(net, optimizer, engine, range(5, 8), how=how)


def test_of_a_wider_layer_the_units_that_were_copied_stay():
    net = mlp(4, 8, 2)
    optimizer, engine = build(net, how="by hand")
    run(net, optimizer, engine, range(6), how="by hand")
    before, old = tensors(engine.groups[0].state), net[0]
    net[0], net[2] = nn.Linear(4, 12), nn.Linear(12, 2)
    order = torch.randperm(12)[:8]
    with torch.no_grad():
        net[0].weight[order] = old.weight
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    engine.optimizer = None
    engine.rebind(net)
    engine.optimizer = optimizer
    state = engine.groups[0].state
    for name in STATE:
        assert torch.equal(getattr(state, name)[..., order], before[name])
    new = torch.ones(12, dtype=torch.bool).index_fill_(0, order, False)
    assert (state.age[new] == 0).all()
    run(net, optimizer, engine, range(6, 16), how="by hand")
    assert state.replaced > 0


def test_a_layer_made_anew_has_new_units():
    net = mlp()
    optimizer, engine = build(net, how="attached")
    run(net, optimizer, engine, range(6), how="attached")
    before = tensors(engine.groups[1].state)
    net[0] = nn.Linear(4, 8)
    optimizer.add_param_group({"params": net[0].parameters()})
    engine.rebind(net)
    assert (engine.groups[0].state.age == 0).all()
    assert engine.report().groups[0].eligible == 0
    assert_same(tensors(engine.groups[1].state), before)
    run(net, optimizer, engine, range(6, 16), how="attached")
    assert engine.groups[0].state.replaced > 0


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.heads = nn.Linear(4, 8), nn.ModuleList([nn.Linear(8, 2)])

    def forward(self, x):
        h = torch.relu(self.body(x))
        return sum(head(h) for head in self.heads)


def test_a_head_added_to_a_traced_model_is_a_consumer_after_rebind():
    torch.manual_seed(0)
    net = Heads()
    optimizer, engine = build(net, how="attached", layers=gnt.trace(net, batch(0)[0]))
    run(net, optimizer, engine, range(4), how="attached")
    before = tensors(engine.groups[0].state)
    net.heads.append(nn.Linear(8, 2))
    optimizer.add_param_group({"params": net.heads[1].parameters()})
    engine.rebind(gnt.trace(net, batch(0)[0]))
    assert_same(tensors(engine.groups[0].state), before)
    run(net, optimizer, engine, range(4, 10), how="attached")
    engine.replace([[3]])
    assert (net.heads[1].weight[:, 3] == 0).all()


@pytest.mark.parametrize("how", ["by hand", "attached"])
def test_a_refused_rebind_changes_nothing(how):
    net = mlp()
    optimizer, engine = build(net, how=how)
    run(net, optimizer, engine, range(3), how=how)
    before, attributes = copy.deepcopy(engine.state_dict()), dict(vars(engine))
    with pytest.raises(ValueError, match=r"SGD does not hold 0.weight, .*: give it the parameters"):
        engine.rebind(mlp())
    with pytest.raises(ValueError, match="no hidden layer"):
        engine.rebind(net[:1])
    assert vars(engine) == attributes
    assert_same(engine.state_dict(), before)
    run(net, optimizer, engine, range(3, 5), how=how)
    assert engine.updates == 5
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.rebind(net)


def test_redo_and_copies_go_on_after_rebind():
    net = mlp()
    redo = gnt.ReDo(net, period=2)
    net[4] = nn.Linear(6, 7)
    assert redo.rebind(net) is redo
    for seed in range(4):
        net(batch(seed)[0])
        redo.step()
    optimizer, engine = build(net, how="attached")
    net[4] = nn.Linear(6, 3)
    optimizer.add_param_group({"params": net[4].parameters()})
    engine.rebind(net)
    copied, other, second = copy.deepcopy((net, optimizer, engine))
    for each in ((net, optimizer, engine), (copied, other, second)):
        run(*each, range(4), how="attached")
    assert_same(engine.state_dict(), second.state_dict())
    assert second.updates == 4
