"""The Triton kernels of selection and replacement against the same by torch operations."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.optim import CBPSGD, AdamGnT, CBPAdam
from tests.helpers.gated_units import Gated
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, IMAGE_SHAPE, batch, conv_net, mlp, replaced

NETS = {"mlp": (mlp, (4,)), "conv": (conv_net, IMAGE_SHAPE)}
EACH_NET = pytest.mark.parametrize(("make", "shape"), NETS.values(), ids=NETS)
OPTIMIZERS = {
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
    "adam": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, amsgrad=True),
    "adadelta": lambda net: torch.optim.Adadelta(net.parameters(), lr=0.1),
    "adamgnt": lambda net: AdamGnT(net.parameters(), lr=0.01),
    "capturable": lambda net: AdamGnT(net.parameters(), lr=0.01, capturable=True),
}
SETTINGS = {**FREQUENT_REPLACEMENT, "replacement_rate": 0.2}


class Branches(nn.Module):
    """Two layers whose outputs one layer reads."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 5), nn.Linear(11, 2)

    def forward(self, x):
        return self.c(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1))


def tanh_mlp(*widths):
    """A network without dead units, whose utilities would all be 0."""
    return nn.Sequential(*(nn.Tanh() if isinstance(each, nn.ReLU) else each for each in mlp(*widths)))


def trained(net, make_optimizer, shape, device, dtype, steps, layers=None, generator=None, **settings):
    """Train a copy with replacements -> network, optimizer, engine, replaced units of each step."""
    net = copy.deepcopy(net).to(device, dtype)
    optimizer = make_optimizer(net)
    generator = generator or torch.Generator(device).manual_seed(5)
    engine = gnt.GnT(layers(net) if layers else net, optimizer, generator=generator, **{**SETTINGS, **settings})
    return net, optimizer, engine, train(net, optimizer, engine, range(steps), shape)


def train(net, optimizer, engine, steps, shape):
    first = next(net.parameters())
    chosen = []
    for t in steps:
        x, y = (tensor.to(first) for tensor in batch(t, *shape))
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
        chosen.append([units.tolist() for units in engine.step()])
    return chosen


def plans(engine):
    """The plans of the kernels that have replaced units."""
    prepared = engine.importance.evaluator.prepared
    return [] if prepared is None else list(prepared._plans.values())


def assert_equal_states(ours, theirs, **tolerance):
    """Networks, optimizers and engines are equal up to rounding; ages are the same."""
    for a, b in zip(ours[0].state_dict().values(), theirs[0].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    for a, b in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        assert_equal_entries(ours[1].state.get(a, {}), theirs[1].state.get(b, {}), **tolerance)
    for a, b in zip(ours[2].groups, theirs[2].groups, strict=True):
        mine, other = a.state.state_dict(), b.state.state_dict()
        assert_equal_entries(mine, other, **tolerance)
        assert a.state._maturing == b.state._maturing
    assert torch.equal(ours[2].generator.get_state(), theirs[2].generator.get_state())


def assert_equal_entries(ours, theirs, **tolerance):
    assert set(ours) == set(theirs)
    for key, value in ours.items():
        if isinstance(value, torch.Tensor):
            exact = {"rtol": 0, "atol": 0} if value.dtype is torch.int64 else tolerance
            torch.testing.assert_close(value, theirs[key], **exact)
        else:
            assert value == theirs[key]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@EACH_NET
def test_steps_with_replacements_equal_those_of_torch_operations(make, shape, kind, device):
    ours, theirs = (
        trained(make(), OPTIMIZERS[kind], shape, device, torch.float64, 12, kernels=kernels)
        for kernels in (None, False)
    )
    assert ours[3] == theirs[3]
    assert min(replaced(ours[2])) > 2
    assert plans(ours[2])
    assert all(plan.resets_optimizer for plan in plans(ours[2]))
    assert not plans(theirs[2])
    assert_equal_states(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "settings",
    [
        {"init": "normal", "bias_init": "initial"},
        {"init": "orthogonal", "bias_transfer": False},
        {"init": lambda tensor, slot, generator: tensor.normal_(generator=generator)},
        {"utility": "weight", "accumulate": False, "decay_rate": 0.0},
        {"measure_every": 2},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_settings_have_the_same_effect(settings, device):
    net = tanh_mlp(4, 8, 6, 2)
    with torch.no_grad():
        net[0].bias.uniform_(-1, 1)
    ours, theirs = (
        trained(net, OPTIMIZERS["sgd"], (4,), device, torch.float64, 8, kernels=kernels, **settings)
        for kernels in (None, False)
    )
    assert plans(ours[2])
    assert ours[3] == theirs[3]
    assert_equal_states(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@EACH_NET
def test_what_is_written_is_equal_bit_for_bit_but_for_moved_biases(make, shape, dtype, device):
    if device == "cpu" and dtype is torch.bfloat16:
        pytest.skip("Triton's interpreter does not carry when it rounds to bfloat16")
    runs = []
    for kernels in (None, False):
        run = trained(make(), OPTIMIZERS["sgd"], shape, device, torch.float32, 4, replacement_rate=0.0, kernels=kernels)
        net, optimizer, engine, _ = run
        net.to(dtype)
        for state in optimizer.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].to(dtype)
        units = [torch.tensor(each, device=device) for each in ([1, 3], [0], [5, 2, 4])[: len(engine.groups)]]
        engine.replace(units)
        runs.append(run)
    ours, theirs = runs
    assert plans(ours[2])
    assert not plans(theirs[2])
    moved = {id(slot.bias) for group in ours[2].groups for slot in group.outgoing}
    for a, b in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        bits = {"rtol": 0, "atol": 0}
        torch.testing.assert_close(a, b, **({} if id(a) in moved else bits))
        torch.testing.assert_close(ours[1].state[a]["momentum_buffer"], theirs[1].state[b]["momentum_buffer"], **bits)
    for a, b in zip(ours[0].buffers(), theirs[0].buffers(), strict=True):
        assert torch.equal(a, b)


def test_runs_equal_those_of_the_cpu_if_the_generator_is_there(device):
    ours, theirs = (
        trained(
            *(mlp(), OPTIMIZERS["adamgnt"], (4,), where, torch.float64, 16),
            generator=torch.Generator().manual_seed(3),
            kernels=kernels,
        )
        for where, kernels in ((device, None), ("cpu", False))
    )
    assert plans(ours[2])
    assert ours[3] == theirs[3]
    for a, b in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-9, atol=1e-11)


def test_layers_that_share_a_consumer_are_replaced_one_after_the_other(device):
    torch.manual_seed(0)
    net = Branches()
    ours, theirs = (
        trained(net, OPTIMIZERS["adam"], (4,), device, torch.float64, 10, kernels=kernels,
                layers=lambda net: gnt.trace(net, torch.zeros(2, 4, device=device, dtype=torch.float64)))
        for kernels in (None, False)
    )  # fmt: skip
    assert max(len(plan.moves) for plan in plans(ours[2])) == 2
    assert ours[3] == theirs[3]
    assert_equal_states(ours, theirs, rtol=1e-9, atol=1e-11)


def test_the_order_of_the_groups_does_not_matter(device):
    ours, theirs = (
        trained(tanh_mlp(4, 8, 6, 5, 2), OPTIMIZERS["sgd"], (4,), device, torch.float64, 8, kernels=kernels,
                layers=lambda net: [*reversed(gnt.walk(net))])
        for kernels in (None, False)
    )  # fmt: skip
    assert max(len(plan.moves) for plan in plans(ours[2])) == 1
    assert ours[3] == theirs[3]
    assert_equal_states(ours, theirs, rtol=1e-9, atol=1e-11)


def test_units_whose_consumers_come_first_are_replaced_with_them(device):
    torch.manual_seed(0)
    net = Gated()
    ours, theirs = (
        trained(net, OPTIMIZERS["adam"], (3,), device, torch.float64, 10, kernels=kernels,
                layers=lambda net: gnt.trace(net, torch.zeros(2, 3, device=device, dtype=torch.float64)))
        for kernels in (None, False)
    )  # fmt: skip
    assert plans(ours[2])
    assert ours[3] == theirs[3]
    assert_equal_states(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", [CBPSGD, CBPAdam])
def test_optimizers_of_this_package_replace_units_by_the_kernels(kind, device):
    net = mlp().to(device, torch.float64)
    optimizer = kind(net, lr=0.01, **SETTINGS)
    for t in range(8):
        x, y = (tensor.to(device, torch.float64) for tensor in batch(t))
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
    assert min(replaced(optimizer.gnt)) > 2
    assert all(plan.resets_optimizer for plan in plans(optimizer.gnt))
    assert plans(optimizer.gnt)


def test_followers_are_told_of_what_the_kernels_have_changed(device):
    runs = []
    for kernels in (None, False):
        net = mlp().to(device, torch.float64)
        optimizer = OPTIMIZERS["sgd"](net)
        penalty, average = gnt.L2Init(net, strength=1e-3), torch.optim.swa_utils.AveragedModel(net)
        generator = torch.Generator(device).manual_seed(5)
        follow = [penalty, average]
        engine = gnt.GnT(net, optimizer, generator=generator, follow=follow, kernels=kernels, **SETTINGS)
        train(net, optimizer, engine, range(8), (4,))
        runs.append((penalty, average, engine))
    assert plans(runs[0][2])
    for a, b in zip(runs[0][0].start, runs[1][0].start, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    for a, b in zip(runs[0][1].parameters(), runs[1][1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def grouped_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 2))


def with_frozen_bias():
    net = mlp()
    net[2].bias.requires_grad_(False)
    return net


@pytest.mark.parametrize(
    ("make", "shape", "settings"),
    [
        (grouped_net, IMAGE_SHAPE, {}),
        (with_frozen_bias, (4,), {}),
        (mlp, (4,), {"protect": "top:0.2"}),
        (lambda: conv_net().to(memory_format=torch.channels_last), IMAGE_SHAPE, {}),
    ],
    ids=["grouped convolution", "frozen bias", "protection", "channels last"],
)
def test_what_the_kernels_do_not_take_is_replaced_by_torch_operations(make, shape, settings, device):
    ours = trained(make(), OPTIMIZERS["sgd"], shape, device, torch.float64, 8, kernels=None, **settings)
    theirs = trained(make(), OPTIMIZERS["sgd"], shape, device, torch.float64, 8, kernels=False, **settings)
    kernels = ours[2].importance.evaluator.prepared
    assert kernels is None or None in kernels._tasks.values()
    assert min(replaced(ours[2])) > 1
    assert ours[3] == theirs[3]
    assert_equal_states(ours, theirs, rtol=1e-9, atol=1e-11)


def test_an_optimizer_that_is_not_known_is_reset_by_its_own_method(device):
    class Own(torch.optim.SGD):
        def reset_units(self, param, dim, index, groups=1):
            self.calls = getattr(self, "calls", 0) + len(index)

    _, optimizer, engine, _ = trained(mlp(), lambda net: Own(net.parameters(), lr=0.1), (4,), device, torch.float64, 6)
    assert [plan.resets_optimizer for plan in plans(engine)] == [False] * len(plans(engine))
    assert plans(engine)
    assert optimizer.calls == 3 * sum(replaced(engine))


@pytest.mark.parametrize("change", ["loaded state", "moved parameter", "settings", "frozen bias", "another optimizer"])
def test_changes_between_replacements_are_seen(change, device):
    runs = []
    for kernels in (None, False):
        run = trained(mlp(), OPTIMIZERS["adamgnt"], (4,), device, torch.float64, 6, kernels=kernels)
        net, optimizer, engine, _ = run
        if change == "loaded state":
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            engine.load_state_dict(copy.deepcopy(engine.state_dict()))
        elif change == "moved parameter":
            net[0].weight.data = net[0].weight.data.clone()
        elif change == "settings":
            engine.decay_rate, engine.maturity_threshold = 0.8, 3
        elif change == "frozen bias":
            net[2].bias.requires_grad_(False)
        else:
            engine.optimizer = optimizer = OPTIMIZERS["sgd"](net)
            run = net, optimizer, engine
        runs.append((*run[:3], train(net, optimizer, engine, range(6, 12), (4,))))
    assert runs[0][3] == runs[1][3]
    assert_equal_states(*runs, rtol=1e-9, atol=1e-11)


def prepared_state(utilities, device):
    """An engine with one group of old units, whose averages are given."""
    net = mlp(2, len(utilities), 1).to(device, torch.float32)
    engine = gnt.GnT(net, replacement_rate=0.0, maturity_threshold=2, decay_rate=0.5, record=False)
    for _ in range(4):
        engine.update([torch.ones(1, len(utilities), device=device)])
    engine.groups[0].state.utility.copy_(torch.tensor(utilities))
    return engine, engine._triton()


def test_the_lowest_utilities_are_selected_in_order_and_of_equal_ones_the_first(device):
    nan, inf = float("nan"), float("inf")
    engine, kernels = prepared_state([3.0, nan, 1.0, -inf, 1.0, inf, 0.5, 0.0], device)
    assert kernels.select([8], 2)[0].tolist() == [3, 7, 6, 2, 4, 0, 1, 5]
    engine.groups[0].state.born[3] = 3
    assert kernels.select([2], 2)[0].tolist() == [7, 6]


def test_large_groups_are_searched_in_blocks(device):
    source = torch.randperm(2500, generator=torch.Generator().manual_seed(0)).double()
    _, kernels = prepared_state(source.tolist(), device)
    assert kernels.select([5], 2)[0].tolist() == source.argsort()[:5].tolist()
    assert kernels.select([33], 2) is None


def test_many_units_at_once_are_replaced_by_the_kernels(device):
    runs = []
    for kernels in (None, False):
        run = trained(mlp(30, 300, 200, 2), OPTIMIZERS["sgd"], (30,), device, torch.float64, 2, kernels=kernels)
        engine = run[2]
        engine.replace([torch.arange(0, 300, 3, device=device), torch.arange(5, 200, 2, device=device)])
        runs.append(run)
    assert plans(runs[0][2])
    assert_equal_states(*runs, rtol=1e-9, atol=1e-11)
