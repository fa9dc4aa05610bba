"""Uses of units that are easy to miss: returned weights, shared memory, empty inputs, stored attributes."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from tests.units.tracing.group_checks import assert_complete, reasons, summary


class Net(nn.Module):
    """A network whose forward is given; tests ask about the units of fc1, those of fc2 are replaceable."""

    def __init__(self, forward):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.own_forward = forward

    def forward(self, x):
        return self.own_forward(self, x)


def _plain(net, x):
    return net.fc3(F.relu(net.fc2(F.relu(net.fc1(x)))))


@pytest.mark.parametrize(
    "returned", [lambda net: net.fc1.weight, lambda net: net.fc1.weight.t(), lambda net: net.fc1.bias]
)
def test_a_returned_weight_counts_as_read(returned):
    net, x = Net(lambda net, x: (_plain(net, x), returned(net))), torch.randn(3, 6)
    groups = gnt.trace(net, x)
    assert list(summary(groups)) == ["fc2"]
    assert "read by several operations (linear, output)" in reasons(groups)["fc1"]
    assert_complete(net, groups, x)


def _as_buffer(net):
    net.register_buffer("other", net.fc1.weight.data)


def _as_attribute(net):
    net.other = net.fc1.weight.data


def _overlapping(net):
    net.other = nn.Parameter(net.fc1.weight.data[2:])


@pytest.mark.parametrize("share", [_as_buffer, _as_attribute, _overlapping])
def test_tensors_that_share_memory_with_a_weight_are_tied_to_it(share):
    net, x = Net(lambda net, x: _plain(net, x) + net.other.sum()), torch.randn(3, 6)
    share(net)
    groups = gnt.trace(net, x)
    assert list(summary(groups)) == ["fc2"]
    assert "shares its weight with 'other'" in reasons(groups)["fc1"]


def test_weights_in_one_storage_without_overlap_are_not_tied():
    net, x = Net(_plain), torch.randn(3, 6)
    flat = torch.randn(72)
    net.fc1.weight.data, net.fc2.weight.data = flat[:36].view(6, 6), flat[36:].view(6, 6)
    assert list(summary(gnt.trace(net, x))) == ["fc1", "fc2"]


def test_an_empty_batch_is_refused():
    with pytest.raises(gnt.TraceError, match="returns an empty tensor for these example inputs"):
        gnt.trace(Net(_plain), torch.randn(0, 6))


def test_an_empty_slice_of_units_is_accepted():
    def halved(net, x):
        h = F.relu(net.fc1(x))
        return net.fc3(F.relu(net.fc2(torch.cat([h, h[:, 6:]], -1))))

    net = Net(halved)
    assert list(summary(gnt.trace(net, torch.randn(3, 6)))) == ["fc1", "fc2"]


def test_a_layer_without_outputs_is_ignored():
    net = Net(lambda net, x: torch.cat([_plain(net, x), net.none(x)], -1))
    with pytest.warns(UserWarning, match="zero-element"):
        net.none = nn.Linear(6, 0)
    assert list(summary(gnt.trace(net, torch.randn(3, 6)))) == ["fc1", "fc2"]


@pytest.mark.parametrize("relu", [F.relu, F.relu_])
def test_layers_under_autocast_are_found(relu):
    def mixed(net, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = relu(net.fc2(relu(net.fc1(x)))).to(torch.bfloat16)
        return net.fc3(h.float())

    net, x = Net(mixed), torch.randn(3, 6)
    groups = gnt.trace(net, x)
    assert list(summary(groups)) == ["fc1", "fc2"]
    assert_complete(net, groups, x)


def test_consumers_without_gradients_are_refused():
    def without_grad(net, x):
        with torch.no_grad():
            h = F.relu(net.fc2(F.relu(net.fc1(x))))
        return net.fc3(h)

    assert list(summary(gnt.trace(Net(without_grad), torch.randn(3, 6)))) == ["fc2"]


@dataclasses.dataclass
class Returned:
    score: Tensor
    hidden: Tensor


def test_outputs_of_any_type_are_opened():
    def two(net, x):
        h = F.relu(net.fc1(x))
        return Returned(net.fc3(F.relu(net.fc2(h))), h)

    groups = gnt.trace(Net(two), torch.randn(3, 6))
    assert list(summary(groups)) == ["fc2"]
    assert "output" in reasons(groups)["fc1"]


def test_a_constant_index_is_followed():
    def shuffled(net, x):
        return net.fc3(F.relu(net.fc2(F.relu(net.fc1(x))[:, [5, 0, 4, 1, 3, 2]])))

    net, x = Net(shuffled), torch.randn(3, 6)
    groups = gnt.trace(net, x)
    assert summary(groups)["fc1"] == "6 relu: fc1 > fc2~"
    assert_complete(net, groups, x)


@pytest.mark.filterwarnings("ignore:.*torch.jit:Warning")
def test_torchscript_is_refused():
    with pytest.raises(gnt.TraceError, match=r"made by torch\.jit"):
        gnt.trace(torch.jit.trace(nn.Sequential(nn.Linear(6, 6)), torch.randn(1, 6)), torch.randn(1, 6))


class StoringNet(nn.Module):
    """Stores its hidden units, which the next forward or other code may read."""

    def __init__(self, keep):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)
        self.keep, self.last, self.seen, self.history = keep, None, {}, []

    def forward(self, x):
        h = torch.relu(self.fc1(x))
        if self.keep == "attribute":
            self.last = h
        elif self.keep == "detached":
            self.last = h.detach() * 2
        elif self.keep == "dict":
            self.seen["h"] = h
        elif self.keep == "list":
            self.history.append(h)
        return self.head(torch.relu(self.fc2(h)))


@pytest.mark.parametrize("forwards", [0, 1])
@pytest.mark.parametrize("keep", ["attribute", "detached", "dict", "list"])
def test_units_stored_in_an_attribute_are_output_units(keep, forwards):
    net = StoringNet(keep)
    for _ in range(forwards):
        net(torch.randn(2, 6))
    last, seen, history = net.last, dict(net.seen), list(net.history)
    groups = gnt.trace(net, torch.randn(2, 6))
    assert [group.name for group in groups] == ["fc2"]
    reason = next(one.reason for one in groups.refused if one.name == "fc1")
    assert reason == "output units: they are stored in an attribute of the model"
    assert net.last is last
    assert [*net.seen.items(), *net.history] == [*seen.items(), *history]
