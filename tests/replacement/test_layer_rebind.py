"""`rebind` of CBP layers: they go on with layers that were replaced in the network on purpose."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.small_runs import assert_same, batch, full_state
from tests.replacement.layer_runs import build, run, sgd

STATE = ("utility", "mean_features", "born", "last_active")


def tensors(layer):
    return {name: getattr(layer.group.state, name).clone() for name in STATE}


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_copied_layer_makes_no_difference(place):
    nets = [build(), build()]
    for net in nets:
        optimizer = sgd(net)
        run(net, optimizer, range(5))
        if net is nets[1]:
            net[place] = copy.deepcopy(net[place])
            optimizer.add_param_group({"params": net[place].parameters()})
            argument = {0: "in_layer", 1: "norms", 4: "out_layer"}[place]
            assert net[3].rebind(**{argument: net[place]}) is net[3]
        run(net, optimizer, range(5, 12))
    assert_same(dict(nets[0].state_dict()), dict(nets[1].state_dict()))
    assert nets[1][3].group.state.replaced > 5


def test_the_columns_of_a_new_head_are_zeroed_and_not_those_of_the_old_one():
    net = build()
    run(net, sgd(net), range(5))
    before, old = tensors(net[3]), net[4]
    net[4] = nn.Linear(8, 5)
    net[3].rebind(out_layer=net[4])
    assert_same(tensors(net[3]), before)
    kept, optimizer = copy.deepcopy(old.state_dict()), sgd(net)  # an optimizer of the network as it is now
    run(net, optimizer, range(5, 9))
    assert_same(old.state_dict(), kept)
    assert net[3].engine.optimizer is optimizer
    net[3].engine.replace([[2]])
    assert not net[4].weight[:, 2].any()


def test_of_a_wider_layer_the_units_that_were_copied_stay():
    net = build()
    run(net, sgd(net), range(5))
    before, old = tensors(net[3]), net[0]
    net[0], net[1], net[4] = nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Linear(12, 2)
    with torch.no_grad():
        net[0].weight[2:10] = old.weight
    net[3].rebind(net[0], net[4], norms=[net[1]])
    for name in STATE:
        assert torch.equal(getattr(net[3].group.state, name)[..., 2:10], before[name])
    assert net[3].group.state.age[[0, 1, 10, 11]].tolist() == [0] * 4
    assert net[3].group.name == "CBPLinear of Linear with 12 units"
    run(net, sgd(net), range(5, 9))
    assert net[3].engine.updates == 9


def test_a_head_that_has_grown_in_place_needs_no_argument():
    net = build()
    optimizer = sgd(net)
    run(net, optimizer, range(3))
    net[4].weight, net[4].bias = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.zeros(5))
    optimizer.param_groups[0]["params"] = list(net.parameters())
    net(batch(0)[0]).sum().backward()
    with pytest.raises(
        RuntimeError, match=r"of shape \(2, 8\) and is of shape \(5, 8\).* a CBP layer has a rebind of its own"
    ):
        optimizer.step()
    net[3].rebind()
    run(net, optimizer, range(3, 6))
    assert net[3].engine.updates == 6


def test_forwards_that_no_step_follows_do_not_count_after_rebind():
    nets = [build(), build()]
    for net in nets:
        net[1].eval()
        optimizer = sgd(net)
        run(net, optimizer, range(3))
        torch.manual_seed(1)
        net[4] = nn.Linear(8, 2)
        if net is nets[0]:
            net(batch(7)[0]).sum().backward()
        net[3].rebind(out_layer=net[4])
        optimizer = sgd(net)
        if net is nets[0]:
            net(batch(8)[0]).sum().backward()
            optimizer.zero_grad()
            net(batch(9)[0])
        run(net, optimizer, range(3, 6))
        if net is nets[0]:
            net(batch(10)[0])  # no backward
        with torch.no_grad():
            features = net[:3](batch(11)[0])
        net[3:](features).sum().backward()
        optimizer.step()
        assert net[3].engine.updates == 7
    assert_same(dict(nets[0][3].state_dict()), dict(nets[1][3].state_dict()))


def test_a_refused_rebind_changes_nothing():
    net = build()
    optimizer = sgd(net)
    run(net, optimizer, range(3))
    average = torch.optim.swa_utils.AveragedModel(net)
    net[3].engine.follow(average, network=net)
    refused = (
        (TypeError, "in_layer of CBPLinear must be one of Linear, got Conv2d", {"in_layer": nn.Conv2d(1, 8, 3)}),
        (ValueError, "reads 9 inputs", {"out_layer": nn.Linear(9, 2)}),
        (ValueError, "norms of CBPLinear must be norms", {"norms": nn.Linear(8, 8)}),
        (ValueError, "network must contain the layers", {"out_layer": nn.Linear(8, 5)}),
    )
    before, attributes = full_state(net, optimizer), dict(vars(net[3]))
    engine = dict(vars(net[3].engine))
    for error, message, arguments in refused:
        with pytest.raises(error, match=message):
            net[3].rebind(**arguments)
    assert (vars(net[3]), vars(net[3].engine)) == (attributes, engine)
    assert_same(full_state(net, optimizer), before)
    net[3].engine.unfollow(average)
    run(net, optimizer, range(3, 5))
    assert net[3].engine.updates == 5


def test_convolutions_and_copies_go_on_after_rebind():
    conv, head = nn.Conv2d(1, 6, 3), nn.Linear(6, 2)
    net = nn.Sequential(conv, nn.ReLU(), gnt.CBPConv(conv, head, maturity_threshold=1), nn.Flatten(), head)
    net[4] = nn.Linear(24, 2)
    net[2].rebind(out_layer=net[4])
    for each in (net, copy.deepcopy(net)):
        optimizer = sgd(each)
        for _ in range(3):
            each(torch.ones(2, 1, 4, 4)).sum().backward()
            optimizer.step()
        assert each[2].engine.updates == 3
        each[4] = nn.Linear(24, 2)
        each(torch.ones(2, 1, 4, 4)).sum().backward()
        with pytest.raises(RuntimeError, match="out_layer of CBPConv"):
            optimizer.step()
