"""`Probe`: values of all groups agree with the functions of `gnt.metrics` on the features that consumers read."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gnt
from gnt import metrics
from gnt.metrics import Probe
from gnt.units._group import Slot, UnitGroup
from tests.helpers.small_runs import (
    FREQUENT_REPLACEMENT,
    IMAGE_SHAPE,
    assert_same,
    conv_net,
    full_state,
    make_run,
    mlp,
    train,
)
from tests.metrics.probe_cases import GROUP_METRICS, Gated, Pooled, TwoInputs, group_values, inputs


def test_values_of_a_small_network():
    net = mlp(4, 8, 6, 2)
    with torch.no_grad():
        net[0].bias[:3] = -100.0
    x = inputs()
    values = Probe(net, gnt.GnT(net), x).measure()
    with torch.no_grad():
        first, second = net[:2](x), net[:4](x)
    wanted = {**group_values("0", first, net[0].weight), **group_values("2", second, net[2].weight)}
    wanted["weight_magnitude"] = metrics.weight_magnitude(net)
    assert values == wanted
    assert list(values) == [f"{metric}/{name}" for name in "02" for metric in GROUP_METRICS] + ["weight_magnitude"]
    assert {type(value) for value in values.values()} == {float}
    assert values["dead_units/0"] >= 3 / 8


def test_channels_read_by_convolutions_and_after_a_flatten():
    net = conv_net().train()
    x = inputs(16, *IMAGE_SHAPE)
    values = Probe(net, net, x, tau=0.7).measure()
    net.eval()
    with torch.no_grad():
        first, flat, last = net[:3](x), net[:7](x), net[:9](x)
    assert values == {
        **group_values("0", first, net[0].weight, tau=0.7),
        **group_values("3", flat, net[3].weight, units=flat.unflatten(1, (4, -1)), tau=0.7),
        **group_values("7", last, net[7].weight, tau=0.7),
        "weight_magnitude": metrics.weight_magnitude(net),
    }
    assert 0 < values["dormant_units/3"] < 1


def test_every_token_is_a_sample():
    net = mlp(4, 8, 2)
    x = inputs(6, 5, 4)
    values = Probe(net, net, x).measure()
    assert values == Probe(net, net, x.flatten(0, 1)).measure()


def test_several_producers_and_consumers():
    torch.manual_seed(0)
    net, x = Gated(), inputs()
    values = Probe(net, gnt.trace(net, x), x).measure()
    with torch.no_grad():
        h = F.silu(net.gate(x)) * net.up(x)
    wanted = group_values("gate", h, torch.cat([net.gate.weight, net.up.weight]))
    assert values == {**wanted, "weight_magnitude": metrics.weight_magnitude(net)}


def test_consumers_that_read_before_and_after_pooling():
    torch.manual_seed(0)
    net, x = Pooled(), inputs(12, *IMAGE_SHAPE)
    with torch.no_grad():
        net.conv.bias[0] = -100.0
        net.conv.weight[1] *= 0.001
        net.conv.bias[1] = 0.001
    (group,) = gnt.trace(net, x)
    assert len(group.taps) == 2
    values = Probe(net, [group], x).measure()
    with torch.no_grad():
        h = F.relu(net.conv(x))
    pooled = F.max_pool2d(h, 2)
    first = h if group.taps[0].name == "wide" else pooled
    for rank in ("effective_rank", "approximate_rank", "nature_rank"):
        assert values[f"{rank}/conv"] == getattr(metrics, rank)(first)
    assert values["dead_units/conv"] == metrics.dead_units(h) == 1 / 5
    magnitude = h.mean((0, 2, 3)).double() + pooled.mean((0, 2, 3)).double()
    assert values["dormant_units/conv"] == float((magnitude <= 0.1 * magnitude.mean()).double().mean()) == 2 / 5


def test_a_unit_that_is_active_for_one_consumer_is_not_dead():
    torch.manual_seed(0)
    net, x = Pooled(), inputs(2, *IMAGE_SHAPE)
    with torch.no_grad():
        net.conv.weight[0] = 0.0
        net.conv.bias[0] = -1.0
    edge = torch.zeros_like(x)
    edge[0, 0, 0, 0] = 1.0
    with torch.no_grad():
        net.conv.weight[0, 0, 0, 0] = 2.0  # active at one corner
    group = UnitGroup(
        "conv",
        5,
        incoming=(Slot("conv", net.conv, 5),),
        outgoing=(Slot("fc", net.fc, 5, dim=1, block=9), Slot("wide", net.wide, 5, dim=1, tap=1)),
        activation=("relu", None),
    )

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):  # the linear layer does not read the corner
            h = F.relu(net.conv(x))
            return net.fc(F.max_pool2d(h[:, :, 1:, 1:], 1, 2).flatten(1)), net.wide(h)

    values = Probe(Shifted(), [group], edge, ranks=False).measure()
    with torch.no_grad():
        h = F.relu(net.conv(edge))
    assert not h[:, 0, 1:, 1:].any()
    assert values["dead_units/conv"] == metrics.dead_units(h) < metrics.dead_units(h[:, :, 1:, 1:])


def test_groups_from_engines_layers_walk_and_trace():
    net, x = mlp(4, 8, 6, 2), inputs()
    wanted = Probe(net, gnt.walk(net), x).measure()
    for groups in (net, list(net), iter(list(net)), gnt.GnT(net), gnt.trace(net, x), list(gnt.walk(net))):
        assert Probe(net, groups, x).measure() == wanted
    net.layers = list(net)
    one = Probe(net, gnt.walk(net)[1:], x).measure()
    assert one == {name: value for name, value in wanted.items() if not name.endswith("/0")}


def test_groups_from_cbp_layers():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc1, self.fc2 = nn.Conv2d(1, 5, 3), nn.Linear(45, 6), nn.Linear(6, 2)
            settings = {key: FREQUENT_REPLACEMENT[key] for key in ("replacement_rate", "maturity_threshold")}
            self.cbp1 = gnt.CBPConv(self.conv, self.fc1, **settings)
            self.cbp2 = gnt.CBPLinear(self.fc1, self.fc2, **settings)

        def forward(self, x):
            x = self.cbp1(F.max_pool2d(F.relu(self.conv(x)), 2)).flatten(1)
            return self.fc2(self.cbp2(F.relu(self.fc1(x))))

    net, x = Net(), inputs(12, *IMAGE_SHAPE)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    train(net, optimizer, None, range(5), *IMAGE_SHAPE)
    assert net.cbp1.group.state.replaced
    before = full_state(net)
    values = Probe(net, net, x).measure()
    assert values == Probe(net, [net.cbp1, net.cbp2], x).measure()
    assert_same(full_state(net), before)
    assert not net.cbp1.features.waiting
    with torch.no_grad():
        pooled = F.max_pool2d(F.relu(net.conv(x)), 2)
        h = F.relu(net.fc1(pooled.flatten(1)))
    assert values == {
        **group_values("conv", pooled, net.conv.weight),
        **group_values("fc1", h, net.fc1.weight),
        "weight_magnitude": metrics.weight_magnitude(net),
    }


def test_the_ranks_of_a_group_share_one_decomposition():
    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += "svd" in str(func)
            return func(*args, **(kwargs or {}))

    net = mlp(4, 8, 6, 2)
    for ranks, expected in ((True, 2), (False, 0)):
        with Count() as count:
            values = Probe(net, net, inputs(), ranks=ranks).measure()
        assert count.calls == expected
        assert ("nature_rank/0" in values) == ranks


def test_loss_accuracy_and_gradient_norm():
    net, x = mlp(4, 8, 6, 3), inputs()
    y = torch.randint(3, (32,), generator=torch.Generator().manual_seed(0))
    other = copy.deepcopy(net)
    hook_calls = []
    hook = net[0].weight.register_hook(hook_calls.append)
    probe = Probe(net, net, x, y=y, gradient=True)
    values = probe.measure()
    assert hook_calls == []
    assert all(p.grad is None for p in net.parameters())
    hook.remove()
    loss = F.cross_entropy(other(x), y)
    loss.backward()
    assert values["loss"] == float(loss.detach())
    assert values["accuracy"] == metrics.online_accuracy(other(x), y)
    assert values["gradient_norm"] == pytest.approx(metrics.gradient_norm(other), rel=1e-6)
    net[0].requires_grad_(False)
    other[0].weight.grad = other[0].bias.grad = None
    assert probe.measure()["gradient_norm"] == pytest.approx(metrics.gradient_norm(other), rel=1e-6)
    with torch.no_grad():
        assert probe.measure()["gradient_norm"] == pytest.approx(metrics.gradient_norm(other), rel=1e-6)
    real = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    net[0].requires_grad_(True)
    values = Probe(net, net, x, y=real).measure()
    assert values["loss"] == float(F.mse_loss(net(x), real).detach())
    assert "accuracy" not in values
    halved = Probe(net, net, x, y=real, loss=lambda output, y: F.mse_loss(output, y) / 2).measure()
    assert halved["loss"] == values["loss"] / 2


def test_tokens_that_cross_entropy_ignores_are_left_out_of_the_accuracy() -> None:
    net, x = mlp(4, 8, 6, 3), inputs(4, 5, 4)
    y = net(x).argmax(2)
    y[:, ::2] = -100
    y[0, 1] = (y[0, 1] + 1) % 3
    values = Probe(net, net, x, y=y).measure()
    assert values["accuracy"] == 7 / 8
    assert values["loss"] == pytest.approx(float(F.cross_entropy(net(x).detach().flatten(0, 1), y.flatten())))


@pytest.mark.parametrize("length", [5, 10])  # with as many tokens as classes torch would take one for the other
def test_the_loss_of_sequences_has_the_classes_last_as_the_accuracy(length: int) -> None:
    net = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))
    x = torch.randint(10, (6, length), generator=torch.Generator().manual_seed(0))
    probe = gnt.metrics.Probe(net, gnt.trace(net, x), x, y=x, gradient=True)
    found = probe.measure()
    loss = nn.functional.cross_entropy(net(x).flatten(0, 1), x.flatten())
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    assert found["loss"] == pytest.approx(loss.item())
    assert found["gradient_norm"] == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item(), rel=1e-5)


@pytest.mark.parametrize("size", [4, 5])
def test_classes_of_images_are_in_torchs_place_whatever_their_size(size: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 1))
    x, y = torch.randn(3, 1, size, size), torch.randint(5, (3, size, size))
    found = Probe(net, net, x, y=y).measure()
    assert found["loss"] == pytest.approx(nn.functional.cross_entropy(net(x), y).item(), rel=1e-5)
    assert "accuracy" not in found


def test_no_accuracy_for_integer_targets_of_a_single_output() -> None:
    def loss(output: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output[:, 0], y.float())

    some, x, y = mlp(4, 8, 1), torch.randn(12, 4), torch.arange(12) % 2
    values = Probe(some, some, x, y=y, loss=loss).measure()
    assert values["loss"] == float(loss(some(x), y).detach())
    assert "accuracy" not in values


def test_update_size_is_measured_since_the_last_measurement():
    net, optimizer, engine = make_run(mlp())
    probe = Probe(net, engine, inputs(), update=True)
    assert probe.measure()["update_size"] == 0.0
    before = [p.detach().clone() for p in net.parameters()]
    train(net, optimizer, engine, range(3))
    assert probe.measure()["update_size"] == metrics.update_size(before, net)
    assert probe.measure()["update_size"] == 0.0


def test_positional_and_keyword_inputs():
    torch.manual_seed(0)
    net, (left, right) = TwoInputs(), (inputs(8), inputs(4))
    net.twice = False
    alone = Probe(net, [net.a, F.relu, net.b], left).measure()
    assert Probe(net, [net.a, F.relu, net.b], (left,)).measure() == alone
    assert Probe(net, [net.a, F.relu, net.b], {"left": left}).measure() == alone
    net.twice = True
    both = Probe(net, [net.a, F.relu, net.b], {"left": left, "right": right[:1], "scale": 2.0}).measure()
    with torch.no_grad():
        h = torch.cat([F.relu(net.a(left)), 2 * F.relu(net.a(right[:1]))])
    assert both == {**group_values("0", h, net.a.weight), "weight_magnitude": metrics.weight_magnitude(net)}


def test_features_are_not_affected_by_later_in_place_operations():
    torch.manual_seed(0)

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            h = F.relu(self.a(x))
            out = self.b(h)
            h.zero_()
            return out

    net = InPlace()
    assert Probe(net, [net.a, F.relu, net.b], inputs()).measure()["effective_rank/0"] > 1


def test_a_model_in_bfloat16():
    net = mlp(4, 8, 2).bfloat16()
    x = inputs().bfloat16()
    with torch.no_grad():
        h = net[:2](x)
    assert Probe(net, net, x).measure() == {
        **group_values("0", h.float(), net[0].weight.float()),
        "weight_magnitude": metrics.weight_magnitude(net),
    }


def test_dead_layers_and_single_samples():
    net = mlp(4, 8, 2)
    with torch.no_grad():
        net[0].bias.fill_(-100.0)
    values = Probe(net, net, inputs(1)).measure()
    assert [values[f"{metric}/0"] for metric in GROUP_METRICS[:5]] == [1.0, 1.0, 0.0, 0.0, 0.0]
