"""What may follow an engine, what is refused, and what becomes of followers in copies and after `rebind`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import gnt
from gnt.replacement import Follower
from tests.helpers.small_runs import assert_same, mlp
from tests.replacement.test_following_engines import no_replacement


class Anchors:
    """A follower that keeps what it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.told, self.moved = error, [], []

    def check_units(self, groups):
        if self.error is not None:
            raise self.error

    def reset_units(self, param, dim, index, groups=1):
        self.told.append((param, dim, index.tolist(), groups))

    def move_bias(self, bias, change):
        self.moved.append((bias, change))


class OldSignature:
    def reset_units(self, param, dim, index):
        pass


def wider():
    return AveragedModel(mlp(4, 9, 6, 2))


def twice(net):
    return AveragedModel(nn.ModuleList([net, copy.deepcopy(net)]))


class FrozenAverage(AveragedModel):
    """A subclass, which is treated as its base."""


REFUSED = {
    "no protocol": (lambda net, e: gnt.L2(net, 0.1), TypeError, r"^L2 cannot follow: it has no method reset_units"),
    "a class": (lambda net, e: Anchors, TypeError, r"^type cannot follow"),
    "other arguments": (
        lambda net, e: OldSignature(),
        TypeError,
        r"reset_units of OldSignature must take \(param, dim, i",
    ),
    "other parameters": (
        lambda net, e: gnt.L2Init(mlp(), 0.1),
        ValueError,
        r"^L2Init cannot follow: none of its 6 param",
    ),
    "its own check": (lambda net, e: Anchors(KeyError("no")), KeyError, "no"),
    "twice": (lambda net, e: e.followers[0], ValueError, r"^this L2Init follows the engine already"),
    "itself": (lambda net, e: e, ValueError, r"^a GnT cannot follow itself"),
    "its importance": (lambda net, e: e.importance, ValueError, r"cannot follow itself"),
    "its optimizer": (
        lambda net, e: e.optimizer,
        ValueError,
        r"^this SGD is the engine's optimizer, whose state is res",
    ),
    "another optimizer": (
        lambda net, e: torch.optim.SGD(mlp().parameters()),
        ValueError,
        r"^optimizer SGD does not hold 0",
    ),
    "other shapes": (
        lambda net, e: wider(),
        ValueError,
        r"as 0.weight it has one of shape \(9, 4\), the network",
    ),
    "two copies": (lambda net, e: twice(net), ValueError, r"it has 2 copies of the layers 0, 2, 4 of the eng"),
    "another engine": (lambda net, e: gnt.GnT(mlp()), ValueError, r"^GnT cannot follow: none of its units is one of"),
    "an ensemble": (
        lambda net, e: gnt.Ensemble(mlp, [0, 1]).gnt,
        ValueError,
        r"^EnsembleGnT cannot follow: all members",
    ),
}


@pytest.mark.parametrize(("build", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_follow_is_refused_and_nothing_has_changed(build, error, message):
    net = mlp()
    engine = no_replacement(net, torch.optim.SGD(net.parameters()), follow=[gnt.L2Init(net, 0.1)])
    follower, before = build(net, engine), (engine.followers, copy.deepcopy(engine.state_dict()))
    with pytest.raises(error, match=message):
        engine.follow(follower)
    assert engine.followers == before[0]
    assert_same(engine.state_dict(), before[1])
    if follower not in (engine, engine.optimizer, engine.importance, *engine.followers):
        with pytest.raises(error, match=message):
            gnt.GnT(net, follow=[follower])
        with pytest.raises(ValueError, match="does not follow the engine"):
            engine.unfollow(follower)


def test_wrong_arguments_of_follow_are_refused():
    net = mlp()
    engine, average = no_replacement(net), AveragedModel(net)
    with pytest.raises(TypeError, match=r"^follow must be a list of objects, got L2Init"):
        no_replacement(net, follow=gnt.L2Init(net, 0.1))
    with pytest.raises(TypeError, match=r"^network is for an AveragedModel only, got it for a L2Init"):
        engine.follow(gnt.L2Init(net, 0.1), network=net)
    with pytest.raises(TypeError, match=r"^network must be a torch.nn.Module or None, got list"):
        engine.follow(average, network=[net])
    with pytest.raises(ValueError, match=r"^network must contain the layers .* does not contain 0, 2, 4"):
        engine.follow(average, network=mlp())
    with pytest.raises(ValueError, match=r"it has no 0, 2, 4, so it is not a copy of this Sequential"):
        engine.follow(AveragedModel(nn.ModuleDict({"net": net})), network=net)
    with pytest.raises(
        ValueError, match=r"as 0.weight it has one of shape \(9, 4\), the network has one of shape \(8, 4\)"
    ):
        engine.follow(wider(), network=net)
    assert engine.followers == ()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.follow(average)


def test_a_follower_that_refuses_ends_a_step_in_which_nothing_has_changed():
    net = mlp()
    first, second = Anchors(), Anchors()
    engine = gnt.GnT(net, follow=[first, second])
    before = copy.deepcopy([net.state_dict(), engine.state_dict()])
    second.error = ValueError("not now")
    with pytest.raises(ValueError, match="not now"):
        engine.replace([[1], []])
    assert_same([net.state_dict(), engine.state_dict()], before)
    assert first.told == []
    engine.unfollow(second).replace([[1], []])
    assert [(dim, index, groups) for _, dim, index, groups in first.told] == [(0, [1], 1), (0, [1], 1), (1, [1], 1)]
    assert isinstance(first, Follower)
    assert not isinstance(engine, Follower)


def test_frozen_parameters_are_not_told_to_followers():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    reg, average, anchors = gnt.L2Init(net, 0.1), AveragedModel(net), Anchors()
    for frozen in (net[0].bias, net[1].weight, net[3].bias):
        frozen.requires_grad_(False)
    engine = gnt.GnT(net, follow=[reg, average, anchors])
    engine.update([torch.rand(5, 4)])
    with torch.no_grad():
        for param in net.parameters():
            param += 1.0
    engine.replace([[2]])
    assert [param for param, *_ in anchors.told] == [net[0].weight, net[1].bias, net[3].weight]
    assert anchors.moved == []
    for number in (1, 2, 5):  # the frozen ones
        assert not (reg.start[number] == list(net.parameters())[number]).any()
        assert not (list(average.module.parameters())[number] == list(net.parameters())[number]).any()


WRAPPERS = {
    "itself": lambda net: net,
    "DataParallel": nn.DataParallel,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "inside a model": lambda net: nn.ModuleDict({"body": net, "head": nn.Linear(2, 2)}),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_copy_of_a_network_is_found_in_wrappers(wrap):
    net = mlp()
    average = FrozenAverage(wrap(net), multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    engine = gnt.GnT(net).follow(average)
    engine.replace([[3], []])
    copied = next(p for name, p in average.module.named_parameters() if name.endswith("0.weight"))
    assert torch.equal(copied[3], net[0].weight[3])


def test_layers_in_a_list_are_found_in_the_copy_by_the_network():
    net = nn.ModuleDict({"first": nn.Linear(3, 4), "second": nn.Linear(4, 2)})
    engine = gnt.GnT([net["first"], torch.relu, net["second"]])
    for model in (net, nn.DataParallel(net)):
        average = AveragedModel(model)
        with pytest.raises(ValueError, match=r"pass that network: engine.follow\(averaged, network=net\)"):
            engine.follow(average)
        engine.follow(average, network=model).replace([[3]])
        copied = next(p for name, p in average.module.named_parameters() if name.endswith("first.weight"))
        assert torch.equal(copied[3], net["first"].weight[3])
        engine.unfollow(average)


def test_a_cbp_layer_tells_its_followers():
    fc1, fc2 = nn.Linear(4, 6), nn.Linear(6, 2)
    net = nn.Sequential(fc1, nn.ReLU(), gnt.CBPLinear(fc1, fc2), fc2)
    reg, average = gnt.L2Init(net, 0.1), AveragedModel(net)
    net[2].engine.follow(reg).follow(average, network=net).replace([[1]])
    assert torch.equal(reg.start[0][1], fc1.weight[1])
    assert torch.equal(average.module[0].weight[1], fc1.weight[1])


def test_anchors_follow_in_a_network_that_was_moved_to_another_dtype():
    net = mlp()
    reg, average = gnt.L2Init(net, 0.1), AveragedModel(net)
    engine = gnt.GnT(net, follow=[reg, average])
    net.double()
    engine.replace([[1], [2]])
    assert reg.start[0].dtype == torch.float64
    assert torch.equal(reg.start[0][1], net[0].weight[1])
    assert torch.equal(average.module[0].weight[1], net[0].weight[1].float())


def test_another_optimizer_of_the_same_parameters_follows():
    net = mlp()
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for _ in range(2)]
    net(torch.randn(3, 4)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    gnt.GnT(net, optimizers[0], follow=[optimizers[1]]).replace([[2], []])
    for optimizer in optimizers:
        assert not optimizer.state[net[2].weight]["momentum_buffer"][:, 2].any()


def test_an_ensembles_engine_is_followed():
    ensemble = gnt.Ensemble(mlp, [0, 1], replacement_rate=0.3, maturity_threshold=0)
    reg = gnt.L2Init(ensemble.net, 0.1)
    ensemble.gnt.follow(reg)
    for _ in range(4):
        ensemble.learn(torch.randn(2, 3, 4), torch.randn(2, 3, 2))
    first = ensemble.gnt.groups[0]
    new = (first.state.age == 0).nonzero().flatten()
    assert len(new)
    weight = first.incoming[0].weight
    start = reg.start[[each is weight for each in reg.parameters].index(True)]
    rows = first.incoming[0].index(new)
    assert torch.equal(start[rows], weight[rows])


def with_followers():
    net = mlp()
    reg, average, other = gnt.L2Init(net, 0.1), AveragedModel(net), gnt.GnT(net)
    return net, gnt.GnT(net, follow=[reg, average, other]), reg, average, other


def test_followers_copied_together_with_the_engine_follow_the_copy():
    net, engine, reg, average, other = copy.deepcopy(with_followers())
    assert engine.followers == (reg, average, other)
    engine.replace([[1], []])
    assert torch.equal(reg.start[0][1], net[0].weight[1])
    assert torch.equal(average.module[0].weight[1], net[0].weight[1])


def test_an_engine_copied_alone_is_followed_by_copies():
    net, engine, reg, average, other = with_followers()
    before = copy.deepcopy([net.state_dict(), average.state_dict(), reg.state_dict(), other.state_dict()])
    copied = copy.deepcopy(engine)
    copied.replace([[1], []])
    assert_same([net.state_dict(), average.state_dict(), reg.state_dict(), other.state_dict()], before)
    own = copied.followers
    assert [type(each) for each in own] == [type(each) for each in engine.followers]
    assert torch.equal(own[0].start[0][1], copied.groups[0].incoming[0].weight[1])
    assert torch.equal(own[1].module[0].weight[1], copied.groups[0].incoming[0].weight[1])


def test_followers_are_not_in_the_state_dict():
    assert_same(with_followers()[1].state_dict().keys(), gnt.GnT(mlp()).state_dict().keys())


def test_followers_stay_after_rebind_and_are_checked_before_it():
    net, engine, reg, average, other = with_followers()
    net[4] = nn.Linear(6, 5)
    groups = engine.groups
    with pytest.raises(
        ValueError, match=r"as 4.weight it has one of shape \(2, 6\), the network has one of .*unfollow"
    ):
        engine.rebind(net)
    assert engine.groups is groups
    average.module[4] = nn.Linear(6, 5)
    engine.rebind(net)
    assert engine.followers == (reg, average, other)
    engine.replace([[1], [3]])
    assert torch.equal(average.module[4].weight, torch.where(torch.arange(6) == 3, 0, average.module[4].weight))
    assert torch.equal(reg.start[0][1], net[0].weight[1])
    other.rebind(net).follow(engine)
    engine.rebind(net)  # the other matches its units again
    net(torch.randn(3, 4)).sum().backward()
    engine.update()
    other.replace([[2], []])
    assert engine.groups[0].state.age.tolist() == [int(unit != 2) for unit in range(8)]
