"""What follows an engine sees each replacement, slice by slice, and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

import gnt
from gnt.units import Slot, UnitGroup
from tests.helpers.shared_units import NETS
from tests.helpers.strategies import engine_settings, networks, randomize, training_runs, unit_choices
from tests.helpers.training_run import same_bits
from tests.replacement.test_optimizer_state import convolutional, linear
from tests.twins.followers import all_indices, followed_copy, owned_by, tensors_of
from tests.units.test_trace_grn import Grn, Net


class Recorder:
    """Counts for each element how often `reset_units` was called for it, and adds up the changes of biases."""

    def __init__(self, net: nn.Module) -> None:
        self.resets = {param: torch.zeros_like(param) for param in net.parameters()}
        self.changes = {param: torch.zeros_like(param) for param in net.parameters()}
        self.checked: list[tuple[str, ...]] = []

    def check_units(self, groups):
        self.checked.append(tuple(group.name for group in groups))

    def reset_units(self, param, dim, index, groups=1):
        counts = self.resets[param]
        for position in index.tolist():
            if groups == 1:
                counts.select(dim, position).add_(1)
            else:
                group, channel = divmod(position, param.shape[1])
                rows = param.shape[0] // groups
                counts[group * rows : (group + 1) * rows, channel] += 1

    def move_bias(self, bias, change):
        assert not self.resets[bias].any(), "biases are moved before anything is reset"
        self.changes[bias] += change


def response_norm():
    """A norm whose parameters have other names than those of torch's norms, and its group."""
    net = Net(Grn())
    norm = Slot("norm", net.norm, 6, dim=3, values={"gamma": 0.0, "beta": 0.0})
    consumers = (Slot("last", net.last, 6, dim=1),)
    return net, [UnitGroup("first", 6, (Slot("first", net.first, 6),), consumers, (norm,), activation=("gelu", None))]


def walked(build, shape):
    def make():
        return build(), None

    return make, shape


GROUP_KINDS = {
    name: (lambda build=build: ((net := build()), [net.group()]), shape) for name, (build, shape) in NETS.items()
}
GROUP_KINDS |= {"response_norm": (response_norm, (3, 4, 4))}
GROUP_KINDS |= {"linear": walked(linear, (3,)), "convolutional": walked(convolutional, (2, 6, 6))}


def build_with_followers(kind):
    """A network after some training, its engine, and followers with values of their own everywhere."""
    torch.manual_seed(0)
    make, shape = GROUP_KINDS[kind]
    net, groups = make()
    layers = net if groups is None else groups
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with torch.no_grad():
        for param in net.parameters():
            param += 0.1
    engine = gnt.GnT(layers, optimizer, generator=torch.Generator().manual_seed(1), bias_init="initial")
    others = [
        gnt.GnT(layers, decay_rate=0.5, maturity_threshold=0),
        gnt.importance.Importance(layers, average="latest"),
        gnt.ReDo(engine.groups[::-1]),
    ]
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, *shape)).square().mean().backward()
        optimizer.step()
        for each in (engine, *others[:2]):
            each.update()
    reg, average, recorder = gnt.L2Init(net, 0.1), AveragedModel(net), Recorder(net)
    randomize(average, 3)
    reg.load_state_dict({"version": 1, "start": [torch.randn_like(param) for param in net.parameters()]})
    for follower in (reg, average, recorder, *others):
        engine.follow(follower)
    return net, engine, reg, average, recorder, others


@pytest.mark.parametrize("kind", GROUP_KINDS)
def test_every_follower_sees_a_replacement_slice_by_slice(kind):
    net, engine, reg, average, recorder, others = build_with_followers(kind)
    chosen = [[group.num_units - 1, 0][: group.num_units] for group in engine.groups]
    twins = {twin: module for module, twin in zip(net.modules(), average.module.modules(), strict=True)}
    anchors = dict(zip(net.parameters(), [start.clone() for start in reg.start], strict=True))
    before, averaged = tensors_of(net), tensors_of(average.module)
    engine.replace([torch.tensor(units) for units in chosen])
    after, owned = tensors_of(net), owned_by(engine.groups, chosen)
    consumers = {slot.module for group in engine.groups for slot in group.outgoing}
    moved = 0
    for (twin, name), old in averaged.items():
        key = (twins[twin], name)
        is_bias = name == "bias" and key[0] in consumers
        own = owned.get(key, set())
        expected = followed_copy(old, before[key], after[key], own, is_consumer_bias=is_bias)
        assert same_bits(getattr(twin, name).detach(), expected), (kind, name)
        param = getattr(*key)
        if not isinstance(param, nn.Parameter):
            continue
        start = next(start for start, mine in zip(reg.start, net.parameters(), strict=True) if mine is param)
        expected = followed_copy(anchors[param], before[key], after[key], own, is_consumer_bias=is_bias)
        assert same_bits(start, expected), (kind, name)
        for index in all_indices(param):  # an element may be in a row of one unit and in a column of another
            assert bool(recorder.resets[param][index]) == (index in own), (kind, name, index)
            change = after[key][index] - before[key][index] if is_bias and index not in own else 0.0
            assert recorder.changes[param][index] == change
            moved += bool(change)
    assert moved, "the test proves nothing: no bias was moved"
    for number, (group, units) in enumerate(zip(engine.groups, chosen, strict=True)):
        kept = [unit for unit in range(group.num_units) if unit not in units]
        states = [each.groups[number].state for each in others[:2]] + [others[2].groups[::-1][number].state]
        for state, age in zip(states, (3, 3, 0), strict=True):
            assert state.age[units].tolist() == [0] * len(units)
            assert state.age[kept].tolist() == [age] * len(kept)
            assert not state.utility[units].any()
            assert not state.mean_features[:, units].any()
        assert states[0].utility[kept].all()
        assert (states[0].eligible, states[0].replaced, states[2].replaced) == (len(kept), 0, 0)


class EvenUnits:
    """Protects every second unit."""

    def protected(self, group):
        return torch.arange(group.num_units) % 2 == 0


@settings(max_examples=15)
@given(
    run=training_runs(of=networks(spaces=(0, 1, 2)), settings=engine_settings(utility="contribution")), data=st.data()
)
def test_followers_keep_what_is_not_replaced_and_a_second_engine_counts_its_eligible_units(run, data):
    half = run.engine.groups[:: data.draw(st.sampled_from([1, -1]))][: data.draw(st.integers(1, 3))]
    other = gnt.GnT(half, maturity_threshold=data.draw(st.integers(0, 2)), replacement_rate=0.5, protect=EvenUnits())
    reg, average = gnt.L2Init(run.net, 0.1), AveragedModel(run.net)
    randomize(average, 1)
    run.engine.follow(reg).follow(average, network=run.net).follow(other)
    other.follow(run.engine)
    for first, second in ((run.engine, other), (other, run.engine)):
        run.optimizer_step()
        first.update()
        second.update()
        before, replaced = run.tensors(), [group.state.replaced for group in second.groups]
        copies = {name: value.detach().clone() for name, value in average.module.state_dict().items()}
        anchors = dict(zip(reg.names, [start.clone() for start in reg.start], strict=True))
        units = dict(zip([group.name for group in run.engine.groups], data.draw(unit_choices(run)), strict=True))
        if first is other:
            units = {name: each[each % 2 == 1] for name, each in units.items()}  # the others are protected
        first.replace([units[group.name] for group in first.groups])
        assert [group.state.replaced for group in second.groups] == replaced
        if first is other:
            break
        after, owned = run.tensors(), run.owned_elements(list(units.values()))
        for name, value in average.module.state_dict().items():
            mask = owned.get(name, torch.zeros_like(value, dtype=torch.bool))
            change = after[name] - before[name] if name.endswith("bias") else 0
            expected = torch.where(mask, after[name], copies[name] + change)
            assert same_bits(value, expected), name
            if name in anchors:
                start = reg.start[reg.names.index(name)]
                assert same_bits(start, torch.where(mask, after[name], anchors[name] + change)), name
    for engine in (run.engine, other):
        for group in engine.groups:
            eligible = group.state.eligible
            group.state.recount_eligible()
            assert group.state.eligible == eligible == int(group.state.mature.sum())


@pytest.mark.parametrize("order", ["matrices first", "biases first"])
def test_a_network_may_be_split_over_two_optimizers(order):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    matrices = torch.optim.SGD([net[0].weight, net[2].weight], lr=0.01, momentum=0.9)
    biases = torch.optim.Adam([net[0].bias, net[2].bias], lr=0.01)
    own, other = (matrices, biases) if order == "matrices first" else (biases, matrices)
    with pytest.raises(ValueError, match=rf"optimizer {type(own).__name__} does not hold"):
        gnt.GnT(net, own)
    engine = gnt.GnT(net, own, follow=[other])
    for _ in range(3):
        net(torch.randn(8, 4)).square().mean().backward()
        matrices.step()
        biases.step()
    engine.replace([[3, 5]])
    for value in (
        matrices.state[net[0].weight]["momentum_buffer"],
        matrices.state[net[2].weight]["momentum_buffer"].T,
        biases.state[net[0].bias]["exp_avg"],
    ):
        changed = (value.reshape(8, -1) == 0).all(1).nonzero().flatten().tolist()
        assert set(changed) >= {3, 5}
        assert len(changed) < 8
    net[2] = nn.Linear(8, 5)
    biases.add_param_group({"params": [net[2].bias]})
    with pytest.raises(ValueError, match=r"does not hold 2\.weight"):
        engine.rebind(net)
    matrices.add_param_group({"params": [net[2].weight]})
    engine.rebind(net).replace([[0]])
