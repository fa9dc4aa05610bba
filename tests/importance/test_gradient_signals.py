"""Measures that read gradients equal their literal twins, however the gradients come about."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gnt
from gnt.importance import MEASURES, Importance
from gnt.importance._mean_magnitudes import mean_magnitude
from gnt.units import Slot, UnitGroup
from tests.helpers.small_runs import batch, mlp
from tests.twins import gradients as twins

DECAY = 0.5


class SeveralConsumers(nn.Module):
    """Units that two layers read as they are, or the second one in a view, and a third one after a product."""

    def __init__(self, *, view: bool = False) -> None:
        super().__init__()
        self.view = view
        torch.manual_seed(0)
        self.first, self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        self.last = nn.Linear(6, 2)

    def tails(self, x: Tensor) -> list[tuple[Tensor, nn.Module]]:
        h = self.first(x).relu()
        return [(h, self.left), (h, self.right), (2 * h, self.last)]

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        right = self.right(h.view(1, -1, 6))[0] if self.view else self.right(h)
        return self.left(h) + right + self.last(2 * h)

    def groups(self) -> list[UnitGroup]:
        (group,) = gnt.trace(self, torch.zeros(2, 4, dtype=torch.float64))
        slots = [dataclasses.replace(slot, tap=tap) for slot, tap in zip(group.outgoing, (0, 0, 1), strict=True)]
        return [dataclasses.replace(group, outgoing=tuple(slots))]


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2),
    )  # fmt: skip


NETWORKS = {
    "linear": (mlp, (4,)),
    "conv": (conv_net, (1, 6, 6)),
    "several consumers": (SeveralConsumers, (4,)),
    "views": (lambda: SeveralConsumers(view=True), (4,)),
}


def loss_of(output: Tensor, y: Tensor, samples: int) -> Tensor:
    """The part of some samples in the mean over all samples."""
    return (output - y.view(output.shape)).square().sum() / (2 * samples)


def plain(net, x, y):
    loss_of(net(x), y, len(x)).backward()


def accumulated(net, x, y):
    for part in ([0, 1], [2, 3, 4]):
        loss_of(net(x[part]), y[part], len(x)).backward()


def one_backward_of_several_forwards(net, x, y):
    sum(loss_of(net(x[part]), y[part], len(x)) for part in ([0, 1], [2, 3, 4])).backward()


def several_backwards_of_one_forward(net, x, y):
    loss = loss_of(net(x), y, len(x))
    (0.25 * loss).backward(retain_graph=True)
    (0.75 * loss).backward()


def with_forwards_that_do_not_count(net, x, y):
    net(3 * x)
    torch.autograd.grad(net(2 * x.requires_grad_()).sum(), x)
    loss = loss_of(net(x), y, len(x))
    loss.backward(retain_graph=True)
    torch.autograd.grad(loss, x)
    net(3 * x)


def checkpointed(net, x, y):
    loss_of(checkpoint(net, x, use_reentrant=False), y, len(x)).backward()


def checkpointed_reentrant(net, x, y):
    loss_of(checkpoint(net, x.requires_grad_(), use_reentrant=True), y, len(x)).backward()


BACKWARDS = (
    plain, accumulated, one_backward_of_several_forwards, several_backwards_of_one_forward,
    with_forwards_that_do_not_count, checkpointed, checkpointed_reentrant,
)  # fmt: skip


def literal_samples(net: nn.Module, x: Tensor, y: Tensor) -> list:
    """For each group and tap the result of `samples_of_units`."""
    groups = []
    if isinstance(net, SeveralConsumers):
        (h, left), (_, right), (doubled, last) = net.tails(x)
        out = [net.forward(x[i : i + 1]) for i in range(len(x))]

        def by_two(feature, i):
            change = left(feature) + right(feature) - (left(h[i : i + 1]) + right(h[i : i + 1])).detach()
            return loss_of(out[i].detach() + change, y[i : i + 1], len(x))

        def by_last(feature, i):
            return loss_of(out[i].detach() + last(feature) - last(doubled[i : i + 1]).detach(), y[i : i + 1], len(x))

        return [[twins.samples_of_units(h, by_two, 6), twins.samples_of_units(doubled, by_last, 6)]]
    group_of = {id(group.consumers[0]): group for group in gnt.walk(net)}
    for number, module in enumerate(net):
        if id(module) in group_of:

            def tail(feature, i, rest=net[number:]):
                return loss_of(rest(feature), y[i : i + 1], len(y))

            groups.append([twins.samples_of_units(x, tail, group_of[id(module)].num_units)])
        x = module(x)
    return groups


def engine_of(net: nn.Module, utility: str, **settings) -> gnt.GnT:
    layers = net if isinstance(net, nn.Sequential) else net.groups()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    return gnt.GnT(layers, optimizer, utility=utility, decay_rate=DECAY, replacement_rate=0.0, **settings)


def expected(net: nn.Module, utility: str, batches: list[tuple[Tensor, Tensor]]) -> list[list[float]]:
    """The corrected average of the measure for each unit, of a network that does not change."""
    averages: list = []
    for x, y in batches:
        groups = literal_samples(net, x, y)
        averages = averages or [
            [(twins.RunningMean(DECAY), [twins.RunningMean(DECAY) for _ in taps]) for _ in taps[0]] for taps in groups
        ]
        values = []
        for taps, states in zip(groups, averages, strict=True):
            values.append([])
            for i, (average, means) in enumerate(states):
                pairs, total = [], 0.0
                for samples, mean in zip(taps, means, strict=True):
                    f_hat = mean(float(torch.cat([h for h, _ in samples[i]]).mean()))
                    pairs += samples[i]
                    total += sum(float((g * (h - f_hat)).sum()) for h, g in samples[i])
                y_now = abs(total) if utility == "replacement_cost" else twins.gradient_activation(pairs, 0.0)
                values[-1].append(average(y_now))
    return values


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_measures_of_feature_gradients_equal_autograd_on_single_samples(network, backward):
    make, shape = NETWORKS[network]
    net = make().double()
    batches = [tuple(t.double() for t in batch(t, *shape, n=5)) for t in range(2)]
    engines = {utility: engine_of(net, utility) for utility in twins.MEASURES}
    for x, y in batches:
        net.zero_grad()
        backward(net, x.clone(), y)
        for engine in engines.values():
            engine.update()
    for utility, engine in engines.items():
        for group, values in zip(engine.groups, expected(net, utility, batches), strict=True):
            wanted = torch.tensor(values, dtype=torch.float64)
            torch.testing.assert_close(group.state.corrected_utility, wanted, rtol=1e-9, atol=1e-12, msg=utility)


@pytest.mark.parametrize("network", NETWORKS)
def test_gradient_equals_the_gradients_of_incoming_weights_one_by_one(network):
    make, shape = NETWORKS[network]
    net = make().double()
    engine = engine_of(net, "gradient")
    x, y = (t.double() for t in batch(0, *shape, n=5))
    accumulated(net, x, y)
    engine.step()
    for group in engine.groups:
        weight = group.producer.weight
        parts = [torch.autograd.grad(loss_of(net(x[i : i + 1]), y[i : i + 1], 5), weight)[0] for i in range(5)]
        wanted = torch.tensor(twins.gradient([sum(parts)]), dtype=torch.float64)
        torch.testing.assert_close(group.state.corrected_utility, wanted)
    assert set(MEASURES["gradient"].reads) == {"incoming_gradient"}


def test_other_readers_have_the_same_features_beside_a_reader_of_gradients():
    net, other = SeveralConsumers().double(), SeveralConsumers().double()
    with_gradients = engine_of(net, "replacement_cost")
    engines = [engine_of(each, "zero_contribution") for each in (net, other)]
    x, y = (t.double() for t in batch(0))
    for each in (net, other):
        F.mse_loss(each(x), y).backward()
    for engine in (*engines, with_gradients):
        engine.update()
    states = [engine.groups[0].state for engine in engines]
    assert torch.equal(states[0].utility, states[1].utility)
    assert torch.equal(net.first.weight.grad, other.first.weight.grad)


def test_all_signals_of_gradients_have_the_means_that_they_name():
    seen = {}

    def measure(signals):
        for name in gnt.importance.GRADIENT_SIGNALS:
            seen[name] = getattr(signals, name)
        return signals.incoming_gradient

    gnt.register_utility("every_gradient", measure, reads=gnt.importance.GRADIENT_SIGNALS)
    try:
        net = mlp(4, 3, 2).double()
        engine = engine_of(net, "every_gradient")
        x, y = (t.double() for t in batch(0))
        h = net[1](net[0](x)).detach().requires_grad_()
        (g,) = torch.autograd.grad(F.mse_loss(net[2](h), y), h)
        F.mse_loss(net(x), y).backward()
        engine.step()
    finally:
        del MEASURES["every_gradient"]
    rows, columns = net[0].weight.grad, net[2].weight.grad
    wanted = {
        "feature_gradient": g.abs().mean(0)[:, None],
        "feature_gradient_square": g.square().mean(0)[:, None],
        "feature_times_gradient": (h * g).abs().mean(0)[:, None],
        "centered_times_gradient": (g * (h - h.mean(0))).sum(0)[:, None],
        "incoming_gradient": rows.abs().mean(1),
        "incoming_gradient_square": rows.square().mean(1),
        "outgoing_gradient": columns.abs().mean(0)[:, None],
        "outgoing_gradient_square": columns.square().mean(0)[:, None],
    }
    torch.testing.assert_close(seen, {name: value.detach() for name, value in wanted.items()})


def test_missing_gradients_are_refused_by_name():
    net = mlp(4, 3, 2)
    x, y = batch(0)
    engine, weights = engine_of(net, "replacement_cost"), engine_of(net, "gradient")
    net(x)
    with pytest.raises(RuntimeError, match=r"no backward of a loss has reached the features of group '0'"):
        engine.update()
    F.mse_loss(net[2](net[1](net[0](x)).detach()), y).backward()
    with pytest.raises(RuntimeError, match=r"features of group '0', read by '2', have no gradient.*unfreeze them"):
        engine.update()
    with pytest.raises(RuntimeError, match=r"0\.weight of group '0' has no gradient.*before zero_grad\(\)"):
        weights.update()
    with pytest.raises(RuntimeError, match=r"call retain_grad\(\) on them"):
        engine.update([torch.ones(2, 3)])
    assert (engine.updates, weights.updates, int(engine.groups[0].state.age.sum())) == (0, 0, 0)


@pytest.mark.parametrize("utility", ["gradient", "incoming_fisher"])
def test_a_frozen_weight_is_refused_by_name(utility):
    net = mlp(4, 3, 2)
    importance = Importance(net, utility)
    x, y = batch(0)
    F.mse_loss(net(x), y).backward()
    importance.update()
    net.zero_grad()
    net[0].weight.requires_grad_(False)
    F.mse_loss(net(x), y).backward()
    with pytest.raises(RuntimeError, match=r"0\.weight of group '0' is frozen .* unfreeze it, or choose a measure"):
        importance.update()
    assert importance.updates == 1


def test_gradients_of_given_features_are_those_that_retain_grad_keeps():
    net = mlp(4, 3, 2)
    x, y = batch(0)
    given, recorded = engine_of(net, "replacement_cost", record=False), engine_of(net, "replacement_cost")
    h = net[1](net[0](x))
    h.retain_grad()
    F.mse_loss(net[2](h), y).backward()
    given.update([h])
    recorded.update()
    torch.testing.assert_close(given.groups[0].state.utility, recorded.groups[0].state.utility)


def test_layers_measure_the_gradients_of_what_they_pass_on():
    net = mlp(4, 3, 2)
    layer = gnt.CBPLinear(net[0], net[2], utility="replacement_cost", decay_rate=DECAY, replacement_rate=0.0)
    with_layer, engine = nn.Sequential(net[0], net[1], layer, net[2]), engine_of(net, "replacement_cost")
    x, y = batch(0)
    optimizer = torch.optim.SGD(with_layer.parameters(), lr=0.0)
    F.mse_loss(with_layer(x), y).backward()
    optimizer.step()
    engine.update()
    torch.testing.assert_close(layer.group.state.utility, engine.groups[0].state.utility)


def test_compiled_networks_are_refused():
    net = mlp(4, 3, 2)
    engine = engine_of(net, "replacement_cost")
    x, y = batch(0)
    torch.compiler.reset()  # after many networks of the same class, dynamo would run this one without compiling it
    F.mse_loss(torch.compile(net, backend="eager")(x), y).backward()
    with pytest.raises(RuntimeError, match=r"code compiled by torch\.compile records none, .* group '0'"):
        engine.update()


def test_a_measure_may_read_only_the_gradients_that_it_declares():
    gnt.register_utility("undeclared", lambda signals: signals.feature_gradient.mean(1))
    try:
        net = mlp(4, 3, 2)
        engine = engine_of(net, "undeclared")
        F.mse_loss(net(batch(0)[0]), batch(0)[1]).backward()
        with pytest.raises(ValueError, match=r"reads feature_gradient without declaring it"):
            engine.update()
    finally:
        del MEASURES["undeclared"]
    for reads, kind, message in (
        (["gradients"], ValueError, r"reads must be names of signals .* got 'gradients'"),
        ([["incoming"]], ValueError, r"reads must be names of signals .* got \['incoming'\]"),
        (None, TypeError, "reads must be a list of names of signals, got None"),
    ):
        with pytest.raises(kind, match=message):
            gnt.register_utility("undeclared", lambda signals: signals.incoming, reads=reads)
    with pytest.raises(ValueError, match="name 'deeplift' is taken by an attribution"):
        gnt.register_utility("deeplift", lambda signals: signals.incoming)


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("fused", [True, False, "unscaled by the loop"])
@pytest.mark.parametrize("utility", ["gradient", "gradient_activation", "replacement_cost"])
def test_gradients_are_those_of_the_loss_without_the_scale_of_a_grad_scaler(utility, fused, attached):
    """The scale doubles after each step, before an engine that is not attached makes its update."""
    states = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=512.0, growth_factor=2.0, growth_interval=1)):
        net = mlp(4, 3, 2)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=fused is True)
        by_loop = scaler is not None and fused == "unscaled by the loop"
        given = {"grad_scaler": scaler} if by_loop and attached else {}
        engine = gnt.GnT(net, optimizer, utility=utility, replacement_rate=0.0, decay_rate=DECAY, **given)
        if by_loop:
            engine.grad_scaler = scaler
        importance = Importance(net, utility, decay_rate=DECAY, grad_scaler=scaler if by_loop else None)
        engine = engine.attach() if attached else engine
        for t in range(3):
            x, y = batch(t)
            optimizer.zero_grad()
            loss = F.mse_loss(net(x), y)
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                if by_loop:
                    scaler.unscale_(optimizer)
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                scaler.update()
            importance.update()
            if not attached:
                engine.step()
        assert engine.updates == 3
        states.append((engine.groups[0].state.corrected_utility, importance.values[0]))
    torch.testing.assert_close(*states)


def test_the_named_grad_scaler_also_counts_if_no_optimizer_steps():
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    engines, (x, y) = [], batch(0)
    for named in (None, scaler):
        net = mlp(4, 3, 2)
        engines.append(gnt.GnT(net, utility="replacement_cost", grad_scaler=named))
        loss = F.mse_loss(net(x), y)
        (loss if named is None else scaler.scale(loss)).backward()
        engines[-1].update()
    torch.testing.assert_close(*(engine.groups[0].state.utility for engine in engines))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mean_magnitudes_by_the_kernel_equal_those_by_torch_operations(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    modules = [nn.Linear(70, 130), nn.Conv2d(6, 70, 3), nn.Conv1d(4, 70, 3, groups=2), nn.Linear(5, 1)]
    for module in (each.to(dtype) for each in modules):
        weight, groups = module.weight, getattr(module, "groups", 1)
        rows = Slot("rows", module, len(weight))
        columns = Slot("columns", module, weight.shape[1] * groups, dim=1, groups=groups)
        part = Slot("part", module, 2, dim=1, offset=1) if groups == 1 else columns
        for slot in (rows, columns, part):
            for tensor in (
                weight,
                torch.randn_like(weight),
                weight.detach().transpose(0, 1).contiguous().transpose(0, 1),
            ):
                expected = slot.mean_magnitude(tensor)
                torch.testing.assert_close(mean_magnitude(slot, tensor, kernels=True), expected)
                assert torch.equal(mean_magnitude(slot, tensor, kernels=False), expected)
