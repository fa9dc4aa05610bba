"""Probe: the right figures of the right units, at the right time, and nothing left behind."""

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
    batch,
    conv_net,
    full_state,
    make_run,
    mlp,
    train,
)

OF_GROUP = ("dead_units", "dormant_units", "effective_rank", "approximate_rank", "nature_rank", "weight_magnitude")


def by_hand(name: str, read: Tensor, weight: Tensor, units: Tensor | None = None, tau: float = 0.1) -> dict[str, float]:
    """The figures of a group; ``units``: where it is not ``read`` itself, (samples, units, positions)."""
    units = read if units is None else units
    return {
        f"dead_units/{name}": metrics.dead_units(units),
        f"dormant_units/{name}": metrics.dormant_units(units, tau),
        f"effective_rank/{name}": metrics.effective_rank(read),
        f"approximate_rank/{name}": metrics.approximate_rank(read),
        f"nature_rank/{name}": metrics.nature_rank(read),
        f"weight_magnitude/{name}": metrics.weight_magnitude(weight),
    }


def inputs(n: int = 32, *shape: int) -> Tensor:
    return batch(0, *(shape or (4,)), n=n)[0]


def test_figures_of_a_small_network():
    net = mlp(4, 8, 6, 2)
    with torch.no_grad():
        net[0].bias[:3] = -100.0
    x = inputs()
    figures = Probe(net, gnt.GnT(net), x).measure()
    with torch.no_grad():
        first, second = net[:2](x), net[:4](x)
    wanted = {**by_hand("0", first, net[0].weight), **by_hand("2", second, net[2].weight)}
    wanted["weight_magnitude"] = metrics.weight_magnitude(net)
    assert figures == wanted
    assert list(figures) == [f"{of}/{name}" for name in "02" for of in OF_GROUP] + ["weight_magnitude"]
    assert {type(value) for value in figures.values()} == {float}
    assert figures["dead_units/0"] >= 3 / 8


def test_channels_flattened_or_not():
    net = conv_net().train()
    x = inputs(16, *IMAGE_SHAPE)
    figures = Probe(net, net, x, tau=0.7).measure()
    net.eval()
    with torch.no_grad():
        first, flat, last = net[:3](x), net[:7](x), net[:9](x)
    assert figures == {
        **by_hand("0", first, net[0].weight, tau=0.7),
        **by_hand("3", flat, net[3].weight, units=flat.unflatten(1, (4, -1)), tau=0.7),
        **by_hand("7", last, net[7].weight, tau=0.7),
        "weight_magnitude": metrics.weight_magnitude(net),
    }
    assert 0 < figures["dormant_units/3"] < 1


def test_every_token_is_a_sample():
    net = mlp(4, 8, 2)
    x = inputs(6, 5, 4)
    figures = Probe(net, net, x).measure()
    assert figures == Probe(net, net, x.flatten(0, 1)).measure()


class Gated(nn.Module):
    """One unit of a row of ``gate`` and a row of ``up``, two consumers, and a value before and after pooling."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)
        self.actor = nn.Linear(6, 2)

    def forward(self, x):
        h = F.silu(self.gate(x)) * self.up(x)
        return self.actor(h) + self.down(h).sum(1, keepdim=True)


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.wide, self.fc = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 3, 3), nn.Linear(5 * 9, 2)

    def forward(self, x):
        h = F.relu(self.conv(x))
        return self.fc(F.max_pool2d(h, 2).flatten(1)) + self.wide(h).mean((1, 2, 3)).unsqueeze(1)


def test_several_producers_and_consumers():
    torch.manual_seed(0)
    net, x = Gated(), inputs()
    figures = Probe(net, gnt.trace(net, x), x).measure()
    with torch.no_grad():
        h = F.silu(net.gate(x)) * net.up(x)
    wanted = by_hand("gate", h, torch.cat([net.gate.weight, net.up.weight]))
    assert figures == {**wanted, "weight_magnitude": metrics.weight_magnitude(net)}


def test_several_values_of_the_same_units():
    torch.manual_seed(0)
    net, x = Pooled(), inputs(12, *IMAGE_SHAPE)
    with torch.no_grad():
        net.conv.bias[0] = -100.0
        net.conv.weight[1] *= 0.001
        net.conv.bias[1] = 0.001
    (group,) = gnt.trace(net, x)
    assert len(group.taps) == 2
    figures = Probe(net, [group], x).measure()
    with torch.no_grad():
        h = F.relu(net.conv(x))
    pooled = F.max_pool2d(h, 2)
    first = h if group.taps[0].name == "wide" else pooled
    for rank in ("effective_rank", "approximate_rank", "nature_rank"):
        assert figures[f"{rank}/conv"] == getattr(metrics, rank)(first)
    assert figures["dead_units/conv"] == metrics.dead_units(h) == 1 / 5
    magnitude = h.mean((0, 2, 3)).double() + pooled.mean((0, 2, 3)).double()
    assert figures["dormant_units/conv"] == float((magnitude <= 0.1 * magnitude.mean()).double().mean()) == 2 / 5


def test_a_unit_that_one_reader_sees_is_alive():
    torch.manual_seed(0)
    net, x = Pooled(), inputs(2, *IMAGE_SHAPE)
    with torch.no_grad():
        net.conv.weight[0] = 0.0
        net.conv.bias[0] = -1.0
    edge = torch.zeros_like(x)
    edge[0, 0, 0, 0] = 1.0
    with torch.no_grad():
        net.conv.weight[0, 0, 0, 0] = 2.0  # alive at one corner of what both read
    by_pool = UnitGroup(
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

        def forward(self, x):  # the linear layer reads what the corner does not reach
            h = F.relu(net.conv(x))
            return net.fc(F.max_pool2d(h[:, :, 1:, 1:], 1, 2).flatten(1)), net.wide(h)

    figures = Probe(Shifted(), [by_pool], edge, ranks=False).measure()
    with torch.no_grad():
        h = F.relu(net.conv(edge))
    assert not h[:, 0, 1:, 1:].any()
    assert figures["dead_units/conv"] == metrics.dead_units(h) < metrics.dead_units(h[:, :, 1:, 1:])


def test_ways_to_name_the_groups():
    net, x = mlp(4, 8, 6, 2), inputs()
    wanted = Probe(net, gnt.walk(net), x).measure()
    for groups in (net, list(net), iter(list(net)), gnt.GnT(net), gnt.trace(net, x), list(gnt.walk(net))):
        assert Probe(net, groups, x).measure() == wanted
    net.layers = list(net)
    one = Probe(net, gnt.walk(net)[1:], x).measure()
    assert one == {name: value for name, value in wanted.items() if not name.endswith("/0")}


def test_layers_of_cbp():
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
    figures = Probe(net, net, x).measure()
    assert figures == Probe(net, [net.cbp1, net.cbp2], x).measure()
    assert_same(full_state(net), before)
    assert not net.cbp1._waiting.waiting
    with torch.no_grad():
        pooled = F.max_pool2d(F.relu(net.conv(x)), 2)
        h = F.relu(net.fc1(pooled.flatten(1)))
    assert figures == {
        **by_hand("conv", pooled, net.conv.weight),
        **by_hand("fc1", h, net.fc1.weight),
        "weight_magnitude": metrics.weight_magnitude(net),
    }


def noisy_net() -> nn.Sequential:
    """All that a careless forward would move: running statistics, dropout's draws, attributes, a buffer."""

    class Careless(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.seen = []

        def forward(self, x):
            self.calls += 1
            self.last = x
            self.seen.append(len(x))
            return x + 0 * torch.rand(())

    torch.manual_seed(0)
    return nn.Sequential(
        *(Careless(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2)),
    )


@pytest.mark.parametrize("attached", [True, False])
def test_a_run_with_a_probe_is_the_run_without(attached):
    runs = []
    for probed in (False, True):
        net, optimizer, engine = make_run(noisy_net(), "adamgnt")
        x, y = batch(7, n=20)
        probe = Probe(net, engine, x, y=y, gradient=True, update=True) if probed else None
        if attached:
            engine.attach()
        torch.manual_seed(1)
        for t in range(12):
            a, b = batch(t)
            optimizer.zero_grad()
            loss = F.mse_loss(net(a), b)
            if probe:
                probe.measure()  # between forward and backward
            loss.backward()
            if probe:
                probe.measure()
            optimizer.step()
            if not attached:
                engine.step()
            if probe:
                assert len(probe.step()) == 2 * 6 + 4  # of two groups; weights, loss, gradient, update
                assert not engine.waiting
        grads = [p.grad for p in net.parameters()]
        hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in net.modules()]
        runs.append(
            (full_state(net, optimizer, engine), grads, hooks, net[0].seen, [m.training for m in net.modules()])
        )
        assert sum(g.state.replaced for g in engine.groups)
    assert_same(list(runs[1]), list(runs[0]))


def test_modes_are_put_back_one_by_one():
    net = noisy_net()
    net[2].eval()
    net[4].eval()
    modes = [module.training for module in net.modules()]
    probe = Probe(net, net, inputs())
    figures = probe.measure()
    assert [module.training for module in net.modules()] == modes
    assert "last" not in vars(net[0])
    assert net[0].seen == []
    assert float(net[0].calls) == 0
    assert probe.measure() == figures == Probe(net.eval(), net, inputs()).measure()


def test_what_went_wrong_leaves_nothing_either():
    net = noisy_net()
    probe = Probe(net, net, inputs())
    before = full_state(net)
    with torch.no_grad():
        net[1].weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="features of group '1' must be finite, got 32 of 256"):
        probe.measure()
    with torch.no_grad():
        net[1].weight[0, 0] = before["net"]["1.weight"][0, 0]
    assert_same(full_state(net), before)
    assert all(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_one_decomposition_serves_three_ranks():
    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += "svd" in str(func)
            return func(*args, **(kwargs or {}))

    net = mlp(4, 8, 6, 2)
    for ranks, expected in ((True, 2), (False, 0)):
        with Count() as count:
            figures = Probe(net, net, inputs(), ranks=ranks).measure()
        assert count.calls == expected
        assert ("nature_rank/0" in figures) == ranks


def test_steps_are_counted():
    net = mlp()
    probe = Probe(net, net, inputs(), every=3, prefix="probe/")
    due = [bool(probe.step()) for _ in range(7)]
    assert due == [False, False, True, False, False, True, False]
    assert probe.steps == 7
    assert all(name.startswith("probe/") for name in probe.measure())
    assert probe.steps == 7


def test_a_probe_goes_on_where_it_was(tmp_path):
    def figures(resume_at: int | None) -> list[dict[str, float]]:
        net, optimizer, engine = make_run(mlp())
        x, y = batch(7, n=20)
        probe = Probe(net, engine, x, y=y, every=2, update=True)
        found = []
        for t in range(7):
            train(net, optimizer, engine, range(t, t + 1))
            found.append(probe.step())
            if t == resume_at:
                torch.save(probe.state_dict(), tmp_path / "probe.pt")
                probe = Probe(net, engine, x, y=y, every=2, update=True)
                probe.load_state_dict(torch.load(tmp_path / "probe.pt", weights_only=True))
        return found

    whole = figures(None)
    assert [bool(each) for each in whole] == [False, True] * 3 + [False]
    assert len({each["update_size"] for each in whole if each}) == 3
    for t in range(7):
        assert figures(t) == whole


def test_the_batch_is_fixed():
    net, x = mlp(), inputs()
    y = torch.randint(2, (32,), generator=torch.Generator().manual_seed(0))
    probe = Probe(net, net, x, y=y)
    before = probe.measure()
    x.zero_()
    y.zero_()
    assert probe.measure() == before


def test_loss_accuracy_and_gradient():
    net, x = mlp(4, 8, 6, 3), inputs()
    y = torch.randint(3, (32,), generator=torch.Generator().manual_seed(0))
    other = copy.deepcopy(net)
    told = []
    hook = net[0].weight.register_hook(told.append)
    probe = Probe(net, net, x, y=y, gradient=True)
    figures = probe.measure()
    assert told == []
    assert all(p.grad is None for p in net.parameters())
    hook.remove()
    loss = F.cross_entropy(other(x), y)
    loss.backward()
    assert figures["loss"] == float(loss.detach())
    assert figures["accuracy"] == metrics.online_accuracy(other(x), y)
    assert figures["gradient_norm"] == pytest.approx(metrics.gradient_norm(other), rel=1e-6)
    net[0].requires_grad_(False)
    other[0].weight.grad = other[0].bias.grad = None
    assert probe.measure()["gradient_norm"] == pytest.approx(metrics.gradient_norm(other), rel=1e-6)
    with torch.no_grad():
        assert probe.measure()["gradient_norm"] == pytest.approx(metrics.gradient_norm(other), rel=1e-6)
    real = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    net[0].requires_grad_(True)
    figures = Probe(net, net, x, y=real).measure()
    assert figures["loss"] == float(F.mse_loss(net(x), real).detach())
    assert "accuracy" not in figures
    halved = Probe(net, net, x, y=real, loss=lambda output, y: F.mse_loss(output, y) / 2).measure()
    assert halved["loss"] == figures["loss"] / 2


def test_update_size_counts_from_the_last_measurement():
    net, optimizer, engine = make_run(mlp())
    probe = Probe(net, engine, inputs(), update=True)
    assert probe.measure()["update_size"] == 0.0
    before = [p.detach().clone() for p in net.parameters()]
    train(net, optimizer, engine, range(3))
    assert probe.measure()["update_size"] == metrics.update_size(before, net)
    assert probe.measure()["update_size"] == 0.0


class Two(nn.Module):
    """Two inputs, one by name; its consumer is called twice, or not at all."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.twice, self.skip = True, False

    def forward(self, left, right=None, *, scale=1.0):
        if self.skip and not self.training:
            return left
        out = self.b(F.relu(self.a(left)))
        return out + self.b(F.relu(self.a(right)) * scale) if self.twice else out


def test_inputs_by_position_and_by_name():
    torch.manual_seed(0)
    net, (left, right) = Two(), (inputs(8), inputs(4))
    net.twice = False
    alone = Probe(net, [net.a, F.relu, net.b], left).measure()
    assert Probe(net, [net.a, F.relu, net.b], (left,)).measure() == alone
    assert Probe(net, [net.a, F.relu, net.b], {"left": left}).measure() == alone
    net.twice = True
    both = Probe(net, [net.a, F.relu, net.b], {"left": left, "right": right[:1], "scale": 2.0}).measure()
    with torch.no_grad():
        h = torch.cat([F.relu(net.a(left)), 2 * F.relu(net.a(right[:1]))])
    assert both == {**by_hand("0", h, net.a.weight), "weight_magnitude": metrics.weight_magnitude(net)}


def test_a_layer_that_writes_into_what_was_read_is_too_late():
    torch.manual_seed(0)

    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            h = F.relu(self.a(x))
            out = self.b(h)
            h.zero_()
            return out

    net = Late()
    assert Probe(net, [net.a, F.relu, net.b], inputs()).measure()["effective_rank/0"] > 1


def test_a_model_in_half_precision():
    net = mlp(4, 8, 2).bfloat16()
    x = inputs().bfloat16()
    with torch.no_grad():
        h = net[:2](x)
    assert Probe(net, net, x).measure() == {
        **by_hand("0", h.float(), net[0].weight.float()),
        "weight_magnitude": metrics.weight_magnitude(net),
    }


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_compiled_model(how):
    torch.manual_seed(0)
    net = Two()
    net.twice = False
    layers = [net.a, F.relu, net.b]
    wanted = Probe(net, layers, inputs()).measure()
    compiled = []

    def backend(graph, example_inputs):
        compiled.append(graph)
        return graph.forward

    if how == "wrapped":
        model = torch.compile(net, backend=backend)
    else:
        net.compile(backend=backend)
        model = net
    probe = Probe(model, layers, inputs())
    for mode in (model.eval(), model.train()):
        with torch.set_grad_enabled(mode.training):
            before = model(inputs()).detach()
    graphs = len(compiled)
    assert graphs
    assert probe.measure() == probe.measure() == wanted
    assert torch.equal(model(inputs()), before)
    assert len(compiled) == graphs  # the probe's forward is as written, and the model's as it was compiled


def test_dead_layers_and_single_samples():
    net = mlp(4, 8, 2)
    with torch.no_grad():
        net[0].bias.fill_(-100.0)
    figures = Probe(net, net, inputs(1)).measure()
    assert [figures[f"{of}/0"] for of in OF_GROUP[:5]] == [1.0, 1.0, 0.0, 0.0, 0.0]


NET = mlp(4, 8, 2)
X, Y = inputs(), torch.zeros(32, dtype=torch.int64)
REFUSED = {
    "model": (lambda: Probe("net", NET, X), TypeError, "model must be a torch.nn.Module, got str"),
    "lazy": (
        lambda: Probe(nn.Sequential(NET, nn.LazyLinear(2)), gnt.walk(NET), X),
        ValueError,
        "1.weight, 1.bias are lazy: run one forward first",
    ),
    "other model": (lambda: Probe(copy.deepcopy(NET), gnt.walk(NET), X), ValueError, "of this model, got group '0'"),
    "no groups": (lambda: Probe(NET, [], X), ValueError, "no Linear or Conv layer"),
    "groups text": (lambda: Probe(NET, "net", X), TypeError, "groups must be an engine, a list of .* got str"),
    "groups none": (lambda: Probe(NET, None, X), TypeError, "groups must be an engine, a list of .* got NoneType"),
    "one group": (lambda: Probe(NET, gnt.walk(NET)[0], X), TypeError, "a list of unit groups, .* got UnitGroup"),
    "same name": (
        lambda: Probe(nn.ModuleList([NET, other := mlp(4, 8, 2)]), [*gnt.walk(NET), *gnt.walk(other)], X),
        ValueError,
        "groups must have different names, got '0' more than once",
    ),
    "ensemble": (
        lambda: Probe((e := gnt.Ensemble(lambda: mlp(4, 8, 2), [0, 1])).net, e.gnt, X),
        TypeError,
        "model must be one network, got an ensemble's",
    ),
    "its engine": (
        lambda: Probe(NET, gnt.Ensemble(lambda: mlp(4, 8, 2), [0, 1], replacement_rate=0.1).gnt, X),
        TypeError,
        "groups must be those of one network",
    ),
    "x": (lambda: Probe(NET, NET, [1.0]), TypeError, "x must be a tensor, a tuple of inputs or a dict.* got list"),
    "x empty": (lambda: Probe(NET, NET, X[:0]), ValueError, r"x must hold at least one sample, got \(0, 4\)"),
    "x nothing": (lambda: Probe(NET, NET, {}), ValueError, "x must hold at least one sample, got no tensor"),
    "y": (lambda: Probe(NET, NET, X, y=[0]), TypeError, "y must be a torch.Tensor, got list"),
    "y length": (lambda: Probe(NET, NET, X, y=Y[:3]), ValueError, r"each of the 32 samples of x, got shape \(3,\)"),
    "loss": (lambda: Probe(NET, NET, X, y=Y, loss="hinge"), ValueError, "loss must be one of mse, cross_entropy"),
    "loss alone": (lambda: Probe(NET, NET, X, loss="mse"), ValueError, "loss='mse' would be ignored: there are no"),
    "gradient alone": (lambda: Probe(NET, NET, X, gradient=True), ValueError, "gradient=True would be ignored"),
    "every 0": (lambda: Probe(NET, NET, X, every=0), ValueError, "every must be an integer >= 1, got 0"),
    "every 1.5": (lambda: Probe(NET, NET, X, every=1.5), ValueError, "every must be an integer >= 1, got 1.5"),
    "tau": (lambda: Probe(NET, NET, X, tau=-1), ValueError, "tau must be a finite number >= 0, got -1"),
    "ranks": (lambda: Probe(NET, NET, X, ranks=1), TypeError, "ranks must be True or False, got 1"),
    "prefix": (lambda: Probe(NET, NET, X, prefix=None), TypeError, "prefix must be a string, got None"),
    "target": (lambda: Probe(NET, NET, X, y=Y + 2).measure(), ValueError, r"classes in 0\.\.1, got 2\.\.2"),
    "mse": (lambda: Probe(NET, NET, X, y=X[:, 0]).measure(), ValueError, r"for mse, got \(32,\) and \(32, 2\)"),
    "loss of many": (
        lambda: Probe(NET, NET, X, y=X[:, :2], loss=lambda a, b: a - b).measure(),
        ValueError,
        r"loss must return one number for the batch, as a tensor, got shape \(32, 2\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(case):
    ask, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        ask()


def test_forwards_that_cannot_be_measured():
    net = Two()
    layers = [net.a, F.relu, net.b]
    net.skip = True
    with pytest.raises(RuntimeError, match=r"no features of group '0': in evaluation mode .* its consumer '2'"):
        Probe(net, layers, (X, X)).measure()
    net.skip = False
    three = X[None].expand(3, -1, -1)
    assert Probe(net, layers, (X[:3], three[:, 0])).measure()
    conv = conv_net()

    class Sizes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return [self.conv[3](self.conv[:3](part)) for part in (x, x[:, :, 1:, 1:])]

    sizes = Sizes()
    with pytest.raises(
        ValueError, match=r"'3', consumer of group '0', reads other shapes at each call: \(2, 5, 6, 6\)"
    ):
        Probe(sizes, gnt.walk(conv)[:1], inputs(2, *IMAGE_SHAPE)).measure()


def test_states_that_do_not_fit_are_refused():
    plain, keeping = Probe(NET, NET, X), Probe(NET, NET, X, update=True)
    state = keeping.state_dict()
    cases = (
        (plain, state, "saved with update=True"),
        (keeping, plain.state_dict(), "saved without update=True"),
        (keeping, {**state, "version": 9}, "version 9; this gnt reads version 1"),
        (keeping, {**state, "steps": -1}, "steps of state_dict must be an integer >= 0, got -1"),
        (keeping, {"steps": 3}, "not one of Probe.state_dict"),
        (keeping, {**state, "steps": 5, "change": {"snapshot": []}}, "same parameters, got 0 and 4 tensors"),
    )
    for probe, wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            probe.load_state_dict(wrong)
    assert plain.steps == keeping.steps == 0
