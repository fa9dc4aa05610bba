"""Units with several producers, consumers and taps: utilities as the literal twin has them, and replacements."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import gnt
from gnt.replacement.reinitialization import bound
from tests.helpers.shared_units import NETS
from tests.twins import shared_units as twin

MEASURES = [name for name, measure in gnt.importance.MEASURES.items() if measure.reads]


def make(name: str, **settings):
    torch.manual_seed(0)
    build, shape = NETS[name]
    net = build().double().train()
    given = {"replacement_rate": 0.0, "decay_rate": 0.9, "maturity_threshold": 0, **settings}
    return net, shape, gnt.GnT([net.group()], generator=torch.Generator().manual_seed(1), **given)


def in_tap_order(group, net, x):
    """What the consumers of each tap read in a forward."""
    seen = {}

    def keep(slot):
        return lambda _, args: seen.__setitem__(slot.tap, args[0].detach())

    hooks = [slot.module.register_forward_pre_hook(keep(slot)) for slot in group.taps]
    net(x)
    for hook in hooks:
        hook.remove()
    return [seen[tap] for tap in group.tap_numbers]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", NETS)
def test_utilities_are_the_twins(name, measure):
    net, shape, engine = make(name, utility=measure)
    group = engine.groups[0]
    expected, running = torch.zeros(group.num_units).double(), None
    for step in range(1, 4):
        x = torch.randn(3, *shape, dtype=torch.float64)
        probe = copy.deepcopy(net)
        features = in_tap_order(probe.group(), probe, x)
        net(x)
        engine.update()
        means = torch.tensor(twin.mean_features(group, features), dtype=torch.float64)
        running = 0.1 * means if running is None else 0.9 * running + 0.1 * means
        centres = (running / (1 - 0.9**step)).tolist()
        now = torch.tensor(twin.utilities(group, features, centres, measure), dtype=torch.float64)
        expected = 0.9 * expected + 0.1 * now
    torch.testing.assert_close(group.state.utility, expected)
    torch.testing.assert_close(group.state.mean_features, running)
    gathered = 1 - 0.9**3 if gnt.importance.MEASURES[measure].corrected else 1.0
    torch.testing.assert_close(group.state.corrected_utility, expected / gathered)


@pytest.mark.parametrize("name", NETS)
def test_a_replaced_unit_is_fresh_everywhere_and_silent(name):
    net, shape, engine = make(name)
    group = engine.groups[0]
    for parameter in net.parameters():
        parameter.data.uniform_(0.5, 1.0)
    x = torch.randn(3, *shape, dtype=torch.float64)
    net(x)
    engine.update()
    chosen, spared = torch.tensor([2, 0]), [u for u in range(group.num_units) if u not in (0, 2)]
    before = copy.deepcopy(net)
    engine.replace([chosen])
    untouched = before.group()
    for slot in group.outgoing:
        for unit in chosen.tolist():
            assert all((weights == 0).all() for _, weights in twin.weights_of(slot, unit))
    for slot in group.drawn:
        limit = bound(group, "kaiming", slot)
        for unit in chosen.tolist():
            rows = torch.cat([weights for _, weights in twin.weights_of(slot, unit)])
            assert rows.abs().max() <= limit
            assert rows.abs().max() > limit / 4
            assert all(slot.bias[p] == 0 for p in twin.positions(slot, unit))
    for slots, olds in ((group.incoming, untouched.incoming), (group.outgoing, untouched.outgoing)):
        for slot, old in zip(slots, olds, strict=True):
            for unit in spared:
                pairs = zip(twin.weights_of(slot, unit), twin.weights_of(old, unit), strict=True)
                assert all(torch.equal(mine[1], theirs[1]) for mine, theirs in pairs)
    assert group.state.mean_features[:, chosen].eq(0).all()


@pytest.mark.parametrize("name", NETS)
def test_constant_units_leave_the_output_where_their_mean_was_moved(name):
    """Each consumer's bias takes what that consumer read; a consumer without bias had nothing to read here."""
    net, shape, engine = make(name)
    group = engine.groups[0]
    with torch.no_grad():
        for slot in group.incoming:
            slot.weight.zero_()
            slot.bias.uniform_(0.3, 1.0)
        for slot in group.scales:
            if slot in group.drawn:
                slot.weight.zero_()
                slot.bias.uniform_(0.3, 1.0)
        for slot in group.outgoing:
            if slot.bias is None:
                slot.weight.zero_()
    if hasattr(net, "norm"):
        net.norm.eval()
    x = torch.randn(3, *shape, dtype=torch.float64)
    before = net(x)
    engine.update()
    engine.replace([torch.arange(group.num_units)[::2]])
    torch.testing.assert_close(net(x), before)


def test_gated_rows_are_drawn_for_what_each_does():
    """The gate through its activation, the value through none."""
    _, _, engine = make("gated")
    group = engine.groups[0]
    assert bound(group, "kaiming", group.incoming[0]) == pytest.approx(math.sqrt(2.0) * math.sqrt(3.0 / 5))
    assert bound(group, "kaiming", group.incoming[1]) == pytest.approx(math.sqrt(3.0 / 5))


def test_given_incoming_weights_are_one_tensor_for_each_producer():
    net, _, engine = make("gated")
    gates, values = torch.ones(1, 5), torch.full((1, 5), 2.0)
    engine.replace([torch.tensor([3])], incoming=[[gates, values]])
    assert net.up.weight[3].eq(1).all()
    assert net.up.weight[9].eq(2).all()
    with pytest.raises(ValueError, match=r"must be a list of 2 tensors, for up, up, got 1"):
        engine.replace([torch.tensor([3])], incoming=[gates])
    with pytest.raises(ValueError, match=r"must have shape \(1, 5\), got \(2, 5\)"):
        engine.replace([torch.tensor([3])], incoming=[[gates, torch.ones(2, 5)]])


def test_features_are_given_for_each_tap():
    net, shape, engine = make("skip_connections")
    x = torch.randn(3, *shape, dtype=torch.float64)
    probe = copy.deepcopy(net)
    engine.update(in_tap_order(probe.group(), probe, x))
    with pytest.raises(ValueError, match=r"one tensor for each of the 3 groups .*'first', 'first', 'first'"):
        engine.update([x])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adam_gnt"])
@pytest.mark.parametrize("name", NETS)
def test_optimizer_state_of_all_slices_is_reset_and_no_other(name, optimizer):
    net, shape, _ = make(name)
    opt = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "adam": torch.optim.Adam,
        "adam_gnt": gnt.AdamGnT,
    }[optimizer](net.parameters())
    group = net.group()
    engine = gnt.GnT([group], opt)
    net(torch.randn(3, *shape, dtype=torch.float64)).square().sum().backward()
    opt.step()
    key = "momentum_buffer" if optimizer == "sgd" else "exp_avg"
    for parameter in net.parameters():
        opt.state[parameter][key].fill_(7.0)
    engine.replace([torch.tensor([1])])
    owned = {parameter: torch.zeros_like(parameter, dtype=torch.bool) for parameter in net.parameters()}
    for _, parameter, slot in engine.groups[0].slices():
        marks = nn.Parameter(torch.zeros_like(parameter))
        slot.fill_(marks.data, torch.tensor([1]), 1.0)
        owned[parameter] |= marks.bool()
    for name_, parameter in net.named_parameters():
        assert torch.equal(opt.state[parameter][key] == 0, owned[parameter]), name_
        assert owned[parameter].any() == any(parameter is p for _, p, _ in engine.groups[0].slices())
