"""Forwards recorded on fake tensors give the groups that torch.export gives, and leave it what cannot be recorded."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn import functional as F

import gnt
from gnt.units._tracing import capture
from gnt.units._tracing.exported import export_forward
from tests.units.tracing.group_checks import assert_complete, reasons, summary
from tests.units.tracing.model_zoo import CASES
from tests.units.tracing.random_nets import random_nets

X = torch.randn(3, 6)


class Net(nn.Module):
    """Two layers of hidden units, a batch norm and an output, with a given forward."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.norm, self.own_forward = nn.BatchNorm1d(6), forward
        self.register_buffer("kept", torch.ones(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(self.own_forward(self, x))))


def described(groups: gnt.Groups) -> object:
    """What two traces must agree on; taps are numbered in their order."""

    def slot(one, taps):
        index = one.index(torch.arange(one.num_units)).flatten().tolist()
        settings = (one.name, one.num_units, one.dim, one.groups, one.activation, one.values)
        return (*settings, index, taps.setdefault(one.tap, len(taps)))

    found = []
    for group in groups:
        taps: dict[int, int] = {}
        sides = [[slot(one, taps) for one in side] for side in (group.incoming, group.outgoing, group.scales)]
        found.append((group.name, group.activation, group.couplings, sides))
    return found, sorted((one.name, one.num_units, one.reason) for one in groups.refused), groups.notes


def traced(net: nn.Module, *args, **kwargs) -> object:
    """Groups and refusals, or the message of the error."""
    try:
        return described(gnt.trace(net, *args, **kwargs))
    except gnt.TraceError as error:
        return str(error)


def recorded_and_exported(net: nn.Module, *args, **kwargs) -> tuple[object, object, bool]:
    """What is found as usual, what is found by torch.export alone, and whether the former used torch.export."""
    used = []

    def no_recorder(model):
        raise NotImplementedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "export_forward", lambda *args: used.append(args) or export_forward(*args))
        found = traced(net, *args, **kwargs)
        was_used = bool(used)
        patch.setattr(capture, "Recorder", no_recorder)
        by_export = traced(net, *args, **kwargs)
    assert used
    # after torch.export has resolved operations in place, a batch norm has this name in reasons
    return found, eval(repr(by_export).replace("_native_batch_norm_legit_functional", "batch_norm")), was_used


@pytest.mark.parametrize("name", ["functional-mlp", "squeeze-excite", "auxiliary-head", "recurrent", "tied"])
def test_recorded_forwards_give_the_groups_of_exported_ones(name):
    case = CASES[name]
    found, by_export, was_exported = recorded_and_exported(case.build(), *case.args, **case.kwargs)
    assert not was_exported
    assert found == by_export


@settings(max_examples=4)
@given(random_nets())
def test_recorded_forwards_of_random_networks_give_the_groups_of_exported_ones(example):
    found, by_export, was_exported = recorded_and_exported(*example)
    assert not was_exported
    assert found == by_export


def _masked(net: Net, x: Tensor) -> Tensor:
    mask = torch.zeros(6)
    mask[2:] = 1
    return F.relu(net.fc1(x)) * mask


def _kept(net: Net, x: Tensor) -> Tensor:
    h = net.fc1(x)
    net.kept.copy_(h.detach())
    return F.relu(h)


# forwards that are recorded, and the group or the reason of refusal of fc1
FOUND = "6 relu: fc1 > fc2"
RECORDED = {
    "relu in place": (lambda net, x: F.relu_(net.norm(net.fc1(x))), "6 relu: fc1 > norm > fc2"),
    "a sum in place": (lambda net, x: F.relu(net.fc1(x).add_(x)), "its channels are summed with the input 'x'"),
    "a product in place": (lambda net, x: F.relu(net.fc1(x)).mul_(2), FOUND),
    "units filled with a number": (lambda net, x: F.relu(net.fc1(x)).zero_(), "they are read by 'zero'"),
    "units copied, and cast": (
        lambda net, x: torch.empty(2, 3, 6, dtype=torch.float64).copy_(F.relu(net.fc1(x)))[0].float(), FOUND),
    "units copied into a buffer": (_kept, "they are stored in buffer 'kept'"),
    "a mask written in parts": (_masked, FOUND),
    "dropout in place": (lambda net, x: F.dropout(F.relu(net.fc1(x)), 0.5, net.training, inplace=True), FOUND),
    "random numbers in place": (lambda net, x: F.relu(net.fc1(x)) * torch.empty(3, 1).bernoulli_(0.5), FOUND),
    "a view written as a whole": (lambda net, x: F.relu_(net.fc1(x).view(3, 2, 3)).flatten(1), FOUND),
    "a list of constants": (lambda net, x: F.relu(net.fc1(x))[:, [5, 4, 3, 2, 1, 0]], "6 relu: fc1 > fc2~"),
    "another view of a weight": (lambda net, x: F.relu(F.linear(x, net.fc1.weight.data)), "read inside 'detach'"),
    "a vmapped function": (lambda net, x: torch.vmap(lambda v: v * 2)(F.relu(net.fc1(x))), FOUND),
    "autocast": (lambda net, x: torch.autocast("cpu", torch.bfloat16)(lambda: F.relu(net.fc1(x)))().float(), FOUND),
}  # fmt: skip


@pytest.mark.parametrize("case", RECORDED)
def test_operations_in_place_and_regions_are_recorded(case, monkeypatch):
    monkeypatch.setattr(capture, "export_forward", lambda *_: pytest.fail("torch.export was used"))
    forward, expected = RECORDED[case]
    groups = gnt.trace(Net(forward), X)
    assert expected in {summary(groups).get("fc1"), *reasons(groups).values()} or expected in reasons(groups)["fc1"]


# forwards that only torch.export can follow; no group is lost
LEFT = {
    "units overwritten in part": (lambda net, x: _overwritten(F.relu(net.fc1(x))), None),
    "a buffer that is assigned": (lambda net, x: _assigned(net, F.relu(net.fc1(x))), FOUND),
}  # fmt: skip


def _overwritten(h: Tensor) -> Tensor:
    h[:, 1:3] = 0
    return h


def _assigned(net: Net, h: Tensor) -> Tensor:
    net.kept = net.kept + 1
    return h


@pytest.mark.parametrize("case", LEFT)
def test_what_cannot_be_recorded_is_left_to_torch_export(case, monkeypatch):
    exports = []
    monkeypatch.setattr(capture, "export_forward", lambda *args: exports.append(args) or export_forward(*args))
    forward, expected = LEFT[case]
    groups = gnt.trace(Net(forward), X)
    assert len(exports) == 2
    assert summary(groups).get("fc1") == expected


def test_values_that_are_not_read_refuse_no_units_but_layers_that_run_are_consumers():
    net = Net(lambda net, x: F.relu(net.fc1(x)))
    net.unread = nn.Linear(6, 3)

    def forward(net, x):
        h = F.relu(net.fc1(x))
        h.softmax(-1).mean()
        net.unread(h)
        return h

    net.own_forward = forward
    groups = gnt.trace(net, X)
    assert summary(groups)["fc1"] == "6 relu: fc1 > unread fc2"
    assert_complete(net, groups, X)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return x @ weight.t()

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError


class OwnLinear(nn.Linear):
    def forward(self, x):
        return Product.apply(x, self.weight)


def test_a_layer_with_its_own_gradient_is_a_consumer():
    """Inside an autograd function torch turns gradients off, but features are recorded at the module."""
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), OwnLinear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 2))
    assert summary(gnt.trace(net, X)) == {"0": "6 relu: 0 > 2", "2": "6 relu: 2 > 4"}


def test_recording_leaves_the_network_as_it_was():
    net = Net(lambda net, x: F.relu_(net.norm(net.fc1(x))))
    before = [id(value) for value in (*net.parameters(), *net.buffers())]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    gnt.trace(net, X)
    assert [id(value) for value in (*net.parameters(), *net.buffers())] == before
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_batch_norm_that_cannot_run_is_an_error():
    net = Net(lambda net, x: net.norm(net.fc1(x)))
    net.norm = nn.BatchNorm1d(5)
    with pytest.raises(gnt.TraceError, match="running_mean should contain 6 elements not 5"):
        gnt.trace(net, X)


def test_inputs_are_named_by_their_argument_and_the_path_in_it():
    class Nested(Net):
        def forward(self, x, others):
            return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x) + others["First"][1]))))

    groups = gnt.trace(Nested(None), X, {"First": [None, torch.ones(3, 6)]})
    assert "the input 'others_first_1'" in reasons(groups)["fc1"]
