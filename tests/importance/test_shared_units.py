"""Units with several producers, consumers and taps: utilities against a literal reference, and replacements."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import gnt
from gnt.replacement.reinitialization import bound
from tests.helpers.shared_units import NETS
from tests.helpers.strategies import BUILT_IN_MEASURES
from tests.twins import shared_units as twin

MEASURES = [name for name in BUILT_IN_MEASURES if gnt.importance.MEASURES[name].reads]
OF_WEIGHT_GRADIENTS = (
    "incoming_gradient", "outgoing_gradient", "incoming_fisher", "outgoing_fisher", "incoming_fisher_activation",
    "outgoing_fisher_activation",
)  # fmt: skip


def make_engine(name: str, **settings):
    """A network, the shape of one input, and its engine."""
    torch.manual_seed(0)
    build, shape = NETS[name]
    net = build().double().train()
    settings = {"replacement_rate": 0.0, "decay_rate": 0.9, "maturity_threshold": 0, **settings}
    return net, shape, gnt.GnT([net.group()], generator=torch.Generator().manual_seed(1), **settings)


def tap_features(group, net, x):
    """The inputs of the consumers of each tap in one forward, in tap order."""
    inputs = {}

    def recorder(slot):
        return lambda _, args: inputs.__setitem__(slot.tap, args[0].detach())

    hooks = [slot.module.register_forward_pre_hook(recorder(slot)) for slot in group.taps]
    net(x)
    for hook in hooks:
        hook.remove()
    return [inputs[tap] for tap in group.tap_numbers]


@pytest.mark.parametrize("measure", [*MEASURES, *OF_WEIGHT_GRADIENTS])
@pytest.mark.parametrize("name", NETS)
def test_utilities_equal_the_reference(name, measure):
    net, shape, engine = make_engine(name, utility=measure)
    group = engine.groups[0]
    expected, running = torch.zeros(group.num_units).double(), None
    for step in range(1, 4):
        x = torch.randn(3, *shape, dtype=torch.float64)
        net_copy = copy.deepcopy(net)
        features = tap_features(net_copy.group(), net_copy, x)
        output = net(x)
        if measure in OF_WEIGHT_GRADIENTS:
            net.zero_grad()
            output.square().sum().backward()
        engine.update()
        means = torch.tensor(twin.mean_features(group, features), dtype=torch.float64)
        running = 0.1 * means if running is None else 0.9 * running + 0.1 * means
        centres = (running / (1 - 0.9**step)).tolist()
        current = torch.tensor(twin.utilities(group, features, centres, measure), dtype=torch.float64)
        expected = 0.9 * expected + 0.1 * current
    torch.testing.assert_close(group.state.utility, expected)
    torch.testing.assert_close(group.state.mean_features, running)
    correction = 1 - 0.9**3 if gnt.importance.MEASURES[measure].corrected else 1.0
    torch.testing.assert_close(group.state.corrected_utility, expected / correction)


@pytest.mark.parametrize("name", NETS)
def test_replacement_reinitializes_all_slices_of_a_unit_and_no_others(name):
    net, shape, engine = make_engine(name)
    engine.init = "kaiming"
    group = engine.groups[0]
    for parameter in net.parameters():
        parameter.data.uniform_(0.5, 1.0)
    x = torch.randn(3, *shape, dtype=torch.float64)
    net(x)
    engine.update()
    chosen, kept = torch.tensor([2, 0]), [u for u in range(group.num_units) if u not in (0, 2)]
    before = copy.deepcopy(net)
    engine.replace([chosen])
    original = before.group()
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
    for slots, original_slots in ((group.incoming, original.incoming), (group.outgoing, original.outgoing)):
        for slot, original_slot in zip(slots, original_slots, strict=True):
            for unit in kept:
                pairs = zip(twin.weights_of(slot, unit), twin.weights_of(original_slot, unit), strict=True)
                assert all(torch.equal(a[1], b[1]) for a, b in pairs)
    assert group.state.mean_features[:, chosen].eq(0).all()


@pytest.mark.parametrize("name", NETS)
def test_replacing_constant_units_leaves_the_output_unchanged(name):
    """The mean contribution moves into each consumer's bias; consumers without a bias have zero weights here."""
    net, shape, engine = make_engine(name)
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


def test_gate_and_value_rows_are_drawn_with_their_own_gains():
    """The gate has the gain of its activation, the value gain 1."""
    _, _, engine = make_engine("gated")
    group = engine.groups[0]
    assert bound(group, "kaiming", group.incoming[0]) == pytest.approx(math.sqrt(2.0) * math.sqrt(3.0 / 5))
    assert bound(group, "kaiming", group.incoming[1]) == pytest.approx(math.sqrt(3.0 / 5))


def test_passed_incoming_weights_are_one_tensor_per_producer():
    net, _, engine = make_engine("gated")
    gates, values = torch.ones(1, 5), torch.full((1, 5), 2.0)
    engine.replace([torch.tensor([3])], incoming=[[gates, values]])
    assert net.up.weight[3].eq(1).all()
    assert net.up.weight[9].eq(2).all()
    with pytest.raises(ValueError, match=r"must be a list of 2 tensors, for up, up, got 1"):
        engine.replace([torch.tensor([3])], incoming=[gates])
    with pytest.raises(ValueError, match=r"must have shape \(1, 5\), got \(2, 5\)"):
        engine.replace([torch.tensor([3])], incoming=[[gates, torch.ones(2, 5)]])


def test_passed_features_are_one_tensor_per_tap():
    net, shape, engine = make_engine("skip_connections")
    x = torch.randn(3, *shape, dtype=torch.float64)
    net_copy = copy.deepcopy(net)
    engine.update(tap_features(net_copy.group(), net_copy, x))
    with pytest.raises(ValueError, match=r"one tensor for each of the 3 groups .*'first', 'first', 'first'"):
        engine.update([x])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adam_gnt"])
@pytest.mark.parametrize("name", NETS)
def test_optimizer_state_is_reset_for_all_slices_of_a_unit_and_no_others(name, optimizer):
    net, shape, _ = make_engine(name)
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
        marker = nn.Parameter(torch.zeros_like(parameter))
        slot.fill_(marker.data, torch.tensor([1]), 1.0)
        owned[parameter] |= marker.bool()
    for parameter_name, parameter in net.named_parameters():
        assert torch.equal(opt.state[parameter][key] == 0, owned[parameter]), parameter_name
        assert owned[parameter].any() == any(parameter is p for _, p, _ in engine.groups[0].slices())
