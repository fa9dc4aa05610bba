"""Unit groups that do not fit their network are refused when an engine is created, and nothing is changed."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import gnt
from gnt.units import Slot, UnitGroup
from tests.helpers.small_runs import mlp

RELU = ("relu", None)


def by_hand(net=None, incoming=None, outgoing=None, scales=(), **group):
    """A small network and a correct group of its units, with the given attributes changed."""
    net = mlp(4, 8, 2) if net is None else net
    first = Slot(**{"name": "0", "module": net[0], "num_units": 8, **(incoming or {})})
    last = Slot(**{"name": "2", "module": net[-1], "num_units": 8, "dim": 1, **(outgoing or {})})
    given = {"name": "0", "num_units": 8, "incoming": (first,), "outgoing": (last,), "scales": scales}
    return net, UnitGroup(**{**given, "activation": RELU, **group})


WRONG_GROUP = {
    "no units": ({"num_units": 0}, ValueError, "num_units of unit group '0' must be an integer >= 1, got 0"),
    "units in words": ({"num_units": "8"}, TypeError, "num_units of unit group '0' must be .*, got '8'"),
    "other number": ({"num_units": 7}, ValueError, "incoming slot '0' of unit group '0' must have .* 7, got 8"),
    "nameless": ({"name": None}, TypeError, "name of a unit group must be a string, got None"),
    "no producer": ({"_incoming": ()}, ValueError, "incoming of .* is empty"),
    "no consumer": ({"_outgoing": ()}, ValueError, "outgoing of .* is empty"),
    "modules for slots": ({"_incoming": (nn.Linear(4, 8),)}, TypeError, "must be a tuple of gnt.units.Slot, got"),
    "no tuple of scales": ({"scales": 5}, TypeError, "scales of .* must be a tuple of gnt.units.Slot, got 5"),
    "members": ({"members": 3}, ValueError, "members of unit group '0' must divide its num_units, 8, got 3"),
    "no containers": ({"containers": (3,)}, TypeError, r"containers of .* must be a tuple of Container, got \(3,\)"),
    "one coupling": ({"couplings": 3}, TypeError, "couplings of .* must be a tuple of str, got 3"),
    "activation's name": ({"activation": "relu"}, TypeError, r"\('relu', None\).*, got 'relu'"),
    "activation's slope": ({"activation": ("leaky_relu", "x")}, TypeError, "a name and a slope"),
}
WRONG_VALUES = {
    "a list": (["gamma"], {}, TypeError, "must be None or a dict of names to finite numbers, got"),
    "no number": ({"gamma": True}, {}, TypeError, "must be None or a dict of names to finite numbers, got"),
    "another name": ({"scale": 0.0}, {}, ValueError, "name 'scale', which is not a parameter of its Module"),
    "another dim": (
        {"gamma": 0.0},
        {"dim": 4},
        ValueError,
        r"dim of .* must be in 0\.\.3 for 'gamma' of shape .*, got 4",
    ),
    "offset": (
        {"gamma": 0.0},
        {"offset": 1},
        ValueError,
        r"position 9 .*beyond the 8 along dim 3 of its Module's gamma",
    ),
}
WRONG_SLOT = {
    "dim": ({"dim": 5}, ValueError, r"dim of .* must be [01] for a Linear with a weight of shape .*, got 5"),
    "kind of dim": ({"dim": "x"}, TypeError, "dim of .* must be an integer >= 0, got 'x'"),
    "block": ({"block": 2}, ValueError, r"position 16 \(offset 0 \+ 8 units x block 2\), beyond the 8 along dim"),
    "no block": ({"block": 0}, ValueError, "block of .* must be an integer >= 1, got 0"),
    "offset": ({"offset": 1}, ValueError, r"position 9 \(offset 1 .*beyond the 8 along dim"),
    "offset before": ({"offset": -1}, ValueError, "offset of .* must be an integer >= 0, got -1"),
    "groups": ({"groups": 2}, ValueError, "groups of .* must be 1 for this Linear, got 2"),
    "tap": ({"tap": "x"}, TypeError, "tap of .* must be an integer, got 'x'"),
    "list of positions": ({"positions": [[0]] * 8}, TypeError, r"int64 tensor on the CPU, of shape \(8, 1\), got \[\["),
    "float positions": ({"positions": torch.zeros(8, 1)}, TypeError, "int64 tensor .*, got torch.float32 on cpu"),
    "flat positions": ({"positions": torch.arange(8)}, ValueError, r"= \(8, 1\), got \(8,\)"),
    "far positions": ({"positions": torch.arange(8)[:, None] + 5}, ValueError, r"are in 5\.\.12, beyond the 8 along"),
    "negative positions": ({"positions": torch.arange(8)[:, None] - 1}, ValueError, r"are in -1\.\.6, beyond"),
    "one position": ({"positions": torch.zeros(8, 1, dtype=torch.int64)}, ValueError, "belongs to two units"),
    "both": ({"positions": torch.arange(8)[:, None], "offset": 2}, ValueError, "offset=2 .* would be ignored"),
    "no module": ({"module": None}, TypeError, "must be a torch.nn.Module, got NoneType"),
    "no weight": ({"module": nn.ReLU()}, ValueError, "its ReLU has no weight that is a plain parameter"),
    "an embedding": ({"module": nn.Embedding(8, 8)}, ValueError, "Embedding is not a layer with a weight matrix"),
    "a norm": ({"module": nn.LayerNorm(8)}, ValueError, "LayerNorm is not a layer with a weight matrix"),
    "lazy": ({"module": nn.LazyLinear(8)}, ValueError, "LazyLinear is lazy"),
    "activation": ({"activation": 5}, TypeError, "activation of .* must be None or a pair .*, got 5"),
}


@pytest.mark.parametrize("case", WRONG_GROUP)
def test_a_group_with_a_wrong_attribute_is_refused(case):
    settings, error, message = WRONG_GROUP[case]
    parts = {key.lstrip("_"): value for key, value in settings.items() if value is not None or key == "name"}
    net, group = by_hand()
    with pytest.raises(error, match=message):
        gnt.GnT([dataclasses.replace(group, **parts)], torch.optim.SGD(net.parameters(), lr=0.1))


@pytest.mark.parametrize("side", ["incoming", "outgoing"])
@pytest.mark.parametrize("case", WRONG_SLOT)
def test_a_slot_that_does_not_fit_its_module_is_refused(case, side):
    settings, error, message = WRONG_SLOT[case]
    _, group = by_hand(**{side: settings})
    with pytest.raises(error, match=message):
        gnt.GnT([group])


def test_a_norm_that_is_too_narrow_is_refused():
    _, group = by_hand(scales=(Slot("norm", nn.BatchNorm1d(5), 8),))
    with pytest.raises(ValueError, match=r"scales slot 'norm' .* reaches to position 8"):
        gnt.GnT([group])


@pytest.mark.parametrize(
    ("norm", "settings", "name"),
    [
        (nn.BatchNorm1d(5, affine=False), {}, "running_mean"),
        (nn.BatchNorm1d(8, affine=False), {"offset": 4}, "running_mean"),
        (nn.InstanceNorm1d(5, track_running_stats=True), {}, "running_mean"),
    ],
    ids=str,
)
def test_running_statistics_that_are_too_few_are_refused(norm, settings, name):
    _, group = by_hand(scales=(Slot("norm", norm, 8, **settings),))
    with pytest.raises(ValueError, match=rf"scales slot 'norm' .* reaches to position .* {name} of shape"):
        gnt.GnT([group])


@pytest.mark.parametrize(
    "module", [nn.Linear(8, 8), nn.Conv1d(8, 8, 3), nn.Embedding(8, 3), nn.LSTM(8, 8), nn.Identity()], ids=str
)
def test_a_module_without_an_entry_per_unit_is_refused_among_the_scales(module):
    _, group = by_hand(scales=(Slot("mid", module, 8),))
    with pytest.raises(ValueError, match=r"scales slot 'mid' of .* has no entry for each unit"):
        gnt.GnT([group])


@pytest.mark.parametrize("units", [[2], [2, 5]])
def test_running_statistics_that_were_made_smaller_later_are_found_before_a_replacement(units):
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    engine = gnt.GnT(net)
    net[1].running_var = torch.ones(4)
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(RuntimeError, match=r"running_var of '1' \(BatchNorm1d\) has shape \(4,\) now, .*below 8"):
        engine.replace([units])
    assert all(map(torch.equal, before, net.parameters()))


def test_a_batch_norm_that_averages_over_all_batches_warns():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=None), nn.ReLU(), nn.Linear(8, 2))
    with pytest.warns(
        UserWarning, match=r"'1' has momentum=None: its running statistics are averages over all"
    ) as seen:
        gnt.GnT(net)
    assert seen[0].filename == __file__


def test_a_square_layer_addressed_along_its_other_dimension_is_refused():
    _, group = by_hand(mlp(4, 8, 8), outgoing={"dim": 0})
    with pytest.raises(ValueError, match=r"dim of outgoing slot '2' .* must be 1 for a Linear"):
        gnt.GnT([group])


def test_the_groups_of_a_slot_must_be_those_of_its_convolution():
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2))
    with pytest.raises(ValueError, match=r"groups of outgoing slot '2' .* must be 2 for this Conv2d, got 1"):
        gnt.GnT([by_hand(net)[1]])
    assert gnt.GnT([by_hand(net, outgoing={"groups": 2})[1]]).groups[0].num_units == 8


def test_a_layer_that_reads_itself_is_refused():
    layer = nn.Linear(8, 8)
    with pytest.raises(ValueError, match="'0' is both a producer and a consumer of unit group '0'"):
        gnt.GnT([by_hand(incoming={"module": layer}, outgoing={"module": layer})[1]])


def test_a_gate_that_reads_its_own_units_is_accepted():
    net = mlp(4, 8, 2)
    _, group = by_hand(net)
    gate = Slot("gate", nn.Linear(8, 8), 8)
    both = {"incoming": (*group.incoming, gate), "outgoing": (dataclasses.replace(gate, dim=1), *group.outgoing)}
    engine = gnt.GnT([dataclasses.replace(group, **both)])
    assert dict(engine.dry_run().groups[0].changes)["gate.weight"] == 15  # a row and a column of 8, which cross
    for side in both:
        with pytest.raises(ValueError, match="'gate' is both a producer and a consumer"):
            gnt.GnT([dataclasses.replace(group, **{**both, side: tuple(s for s in both[side] if s.name == "gate")})])


def test_a_unit_in_two_groups_is_refused():
    net = mlp(4, 8, 2)
    groups = gnt.trace(net, torch.randn(1, 4))
    for twice in (groups + groups, [*groups, *gnt.trace(net, torch.randn(1, 4))]):
        with pytest.raises(ValueError, match=r"a row of '0' \(Linear\) belongs to two units of unit group '0'"):
            gnt.GnT(twice)
    parts = [
        by_hand(net, {"num_units": 4, "offset": k}, {"num_units": 4}, num_units=4, name=f"part {k}") for k in (0, 4)
    ]
    with pytest.raises(ValueError, match=r"a column of '2' \(Linear\) .* 'part 0' and 'part 4'"):
        gnt.GnT([group for _, group in parts])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layer: layer.weight.requires_grad_(False), "is frozen"),
        (parametrizations.weight_norm, "parametrized"),
        (
            lambda layer: setattr(layer, "weight", nn.Parameter(torch.randn(6, 4))),
            "reaches to position 8 .*beyond the 6",
        ),
    ],
)
def test_groups_are_refused_if_the_network_was_changed_after_tracing(change, message):
    net = mlp(4, 8, 2)
    groups = gnt.trace(net, torch.randn(1, 4))
    change(net[0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=message):
        gnt.GnT(groups, optimizer)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_single_group_and_a_mixed_list_are_refused():
    _, group = by_hand()
    with pytest.raises(TypeError, match=r"a list of unit groups, got one: pass \[group\] for group '0'"):
        gnt.GnT(group)
    with pytest.raises(TypeError, match="a list of layers or a list of unit groups, got both: also ReLU"):
        gnt.GnT([group, nn.ReLU()])
    with pytest.raises(TypeError, match=r"Groups must contain only gnt.UnitGroup, got int"):
        gnt.Groups([1, 2])


def test_the_engine_argument_replaces_an_activation_without_gain():
    _, group = by_hand(activation=("erf", None))
    with pytest.raises(ValueError, match="activation 'erf' has no known gain: pass activation=NAME"):
        gnt.GnT([group], init="kaiming")
    engine = gnt.GnT([group], activation="tanh")
    assert engine.groups[0].activation == ("tanh", None)
    assert group.activation == ("erf", None), "the given group is not changed"
    with pytest.raises(ValueError, match="unit groups have their own"):
        gnt.GnT(engine.groups, activation="relu")


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_values_that_do_not_fit_their_module_are_refused(case):
    values, other, error, message = WRONG_VALUES[case]
    norm = nn.Module()
    norm.gamma = nn.Parameter(torch.zeros(1, 1, 1, 8))
    net, group = by_hand(scales=(Slot("norm", norm, 8, **{"dim": 3, "values": values, **other}),))
    with pytest.raises(error, match=message):
        gnt.GnT([group], torch.optim.SGD([*net.parameters(), norm.gamma], lr=0.1))
    _, group = by_hand(incoming={"values": {"weight": 0.0}})
    with pytest.raises(ValueError, match=r"values of .* must be None: only a norm"):
        gnt.GnT([group])
