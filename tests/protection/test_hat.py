"""`HAT`: closed forms of gates and sparsity, tasks, saving, engines, and what is refused."""

from __future__ import annotations

import copy
import inspect
import io
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import gnt
from gnt.metrics import Probe
from gnt.protection import Adaptive, Constant, Random
from gnt.protection._gate_function import annealed_scale, gate, gate_slope
from gnt.protection._sparsity import SparsityTerm
from gnt.protection._unit_layout import UnitLayout
from tests.helpers.small_runs import IMAGE_SHAPE, assert_same, conv_net, mlp
from tests.protection.masked_runs import inputs, learn_steps, learn_task, loss, outputs
from tests.replacement.test_no_synchronization import NoSynchronization

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")
FAST = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}


def make(net: nn.Module | None = None, kind: type[gnt.HAT] = gnt.HAT, **given: Any) -> Any:
    net = mlp() if net is None else net
    hat = kind(net, gnt.walk(net), **{"sparsity": 0.1, "generator": torch.Generator().manual_seed(7), **given})
    return net, hat, torch.optim.SGD(net.parameters(), **FAST)


# gates


def test_the_scale_grows_from_its_reciprocal_to_s_max_in_each_epoch():
    assert [annealed_scale(b, 5, 4.0) for b in range(1, 6)] == pytest.approx([0.25, 1.1875, 2.125, 3.0625, 4.0])
    assert annealed_scale(1, 1, 400.0) == 400.0
    for batches in (2, 469, 160_000):
        assert all(annealed_scale(b, batches, 400.0) > 0 for b in (1, 2, batches))
    _, hat, optimizer = make(s_max=4.0)
    hat.begin(0, optimizer, steps_per_epoch=3)
    scales = []
    for step in range(5):
        scales.append(hat.scale)
        assert torch.equal(hat.gates.detach(), torch.sigmoid(hat.embedding.detach() * hat.scale))
        learn_steps(hat, optimizer, range(step, step + 1))
    assert scales == [0.25, 2.125, 4.0, 0.25, 2.125]


@pytest.mark.parametrize("scale", [0.01, 1.0, 40.0])
def test_the_gradient_of_the_gates_is_that_of_the_published_compensation_and_lives_on_both_sides(scale):
    e = torch.linspace(-6, 6, 25, dtype=torch.float64, requires_grad=True)
    upstream = torch.linspace(0.5, 2, 25, dtype=torch.float64)
    gradients = {}
    for kind in ("none", "published", "exact"):
        (gradients[kind],) = torch.autograd.grad(gate(e, scale, 400.0, kind), e, upstream)
    (short,) = torch.autograd.grad(gate(e, scale, 400.0, bound=6.0), e, upstream)
    torch.testing.assert_close(short, gradients["published"], rtol=1e-12, atol=0)
    d, z = e.detach(), (scale * e.detach()).abs()
    factor = 400 / scale * (torch.cosh(z.clamp(max=50)) + 1) / (torch.cosh(d) + 1)
    inside = z < 8
    torch.testing.assert_close((gradients["none"] * factor)[inside], gradients["published"][inside], rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients["exact"], 400 * torch.sigmoid(d) * torch.sigmoid(-d) * upstream)
    torch.testing.assert_close(
        gradients["published"], gradients["exact"] * ((math.cosh(50) + 1) / (torch.cosh(z) + 1)).clamp(max=1)
    )
    single = gate_slope(d.float(), scale, 400.0, 50.0)
    assert bool((single > 0)[z < 80].all())  # float32: sigmoid(s e) is 1 for s e > 17
    assert_same(single, single.flip(0))


@pytest.mark.parametrize("mode", ["original", "cross"])
@pytest.mark.parametrize("used", ["none", "some", "all"])
def test_the_sparsity_term_is_one_ratio_over_the_network(mode, used):
    layout = UnitLayout(gnt.walk(mlp()))
    gates = torch.rand(14, dtype=torch.float64)
    c = {"none": torch.zeros(14), "some": (torch.arange(14) % 3 == 0) * 1.0, "all": torch.ones(14)}[used].double()
    term = SparsityTerm(c, layout, mode)

    def expected(a: Tensor, c: Tensor) -> Tensor:
        free = (a * (1 - c)).sum() / (1 - c).sum() if (1 - c).any() else torch.zeros(())
        overlap = 1 - (a * c).sum() / c.sum() if c.any() else torch.zeros(())
        return free if mode == "original" else (free + overlap) / 2

    torch.testing.assert_close(term.penalty(gates), expected(gates, c), check_dtype=False)
    parts = [*zip(gates.split(layout.sizes), c.split(layout.sizes), strict=True), (gates, c)]
    torch.testing.assert_close(
        term.by_group(gates), torch.stack([expected(*part) for part in parts]), check_dtype=False
    )
    if mode == "original" and used == "some":
        few_free = SparsityTerm(c, layout, mode, min_free=5).by_group(gates)  # 5 of 8, 4 of 6, 9 of 14 are free
        assert few_free[:2].tolist() == [0, 0]
        assert few_free[2] > 0


@pytest.mark.parametrize("engine_first", [True, False])
def test_engines_and_probes_see_gated_features_whatever_was_built_first(engine_first):
    net, x = mlp(), inputs(mlp())
    engine = gnt.GnT(net, replacement_rate=0.0) if engine_first else None
    hat = gnt.HAT(net, gnt.walk(net), embedding=(-6.0, -6.0), s_max=1e4, sparsity=0)
    engine = engine or gnt.GnT(net, replacement_rate=0.0)
    hat.begin(0, torch.optim.SGD(net.parameters(), lr=0.0), steps_per_epoch=1)
    net(x).sum().backward()
    engine.update()
    assert not any(average.any() for group in engine.groups for average in group.state.mean_features)
    assert Probe(net, engine, x).measure()["dead_units/0"] == 1.0
    hat.use(None)
    assert Probe(net, engine, x).measure()["dead_units/0"] < 1.0


# tasks


def test_masks_in_force_and_running_statistics_are_those_of_the_task():
    net, hat, optimizer = make(conv_net())
    x = inputs(net, IMAGE_SHAPE)
    statistics = []
    for task in ("a", "b"):
        hat.begin(task, optimizer, steps_per_epoch=2)
        assert_same(net[1].running_mean, torch.zeros(5))  # each task starts from the initial values
        learn_steps(hat, optimizer, range(2), IMAGE_SHAPE)
        mask = hat.embedding.detach() > 0
        net.eval()
        with torch.no_grad():
            open_output = net(x)
        net.train()
        statistics.append(net[1].running_mean.clone())
        hat.end()
        assert_same(outputs(hat, x)[task], open_output)  # binary gates in evaluation mode
        assert_same(torch.cat(list(hat.masks[task].values())), mask)
    with hat.use("a"):
        assert_same(net[1].running_mean, statistics[0])
        with pytest.raises(RuntimeError, match="task 'a' has ended and cannot be trained"):
            net(x)
    assert_same(net[1].running_mean, statistics[1])
    hat.begin("c", optimizer, steps_per_epoch=2)
    learn_steps(hat, optimizer, range(1), IMAGE_SHAPE)
    now = net[1].running_mean.clone()
    with hat.use("a"):
        assert_same(net[1].running_mean, statistics[0])
    assert_same(net[1].running_mean, now)
    assert_same(hat.counts.bool(), hat.cumulative.bool())


def test_a_trace_while_a_task_is_open_is_no_training():
    net, hat, optimizer = make()
    hat.begin(0, optimizer, steps_per_epoch=2)
    gnt.trace(net, inputs(net))
    assert not any(hat._trained.current)
    learn_steps(hat, optimizer, range(2))
    assert all(hat._trained.current)


def test_the_mean_of_masks_is_counted_and_reported():
    _net, hat, optimizer = make()
    for task in range(3):
        learn_task(hat, optimizer, task)
    masks = torch.stack([torch.cat(list(mask.values())) for mask in hat.masks.values()])
    assert_same(hat.counts, masks.sum(0).float())
    hat.begin(3, optimizer, steps_per_epoch=2)
    report = hat.report()
    assert [each.used_by for each in report.groups] == [
        tuple(torch.bincount(part.long()).tolist()) for part in hat.layout.by_group(hat.counts).values()
    ]
    assert [each.rate for each in report.groups] == list(hat.capacity_by_group().values())
    assert sum(each.on for each in report.groups) == int((hat.embedding > 0).sum())
    assert str(report).splitlines()[0] == "after 3 tasks: units free, and used by 1, 2, ... tasks"
    sizes = [4 * 8 + 8, 8 * 6 + 6]
    by_group = hat.capacity_by_group().values()
    assert hat.capacity() == pytest.approx(sum(map(float.__mul__, by_group, map(float, sizes))) / sum(sizes))


def test_the_picture_shows_overlap_and_use():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    _net, hat, optimizer = make()
    for task in range(2):
        learn_task(hat, optimizer, task)
    left, right = hat.plot()
    first, second = (torch.cat(list(mask.values())) for mask in hat.masks.values())
    share = float((first & second).sum() / first.sum())
    assert left.images[0].get_array()[0, 1] == pytest.approx(share)
    assert right.lines[0].get_ydata()[1] == pytest.approx(float(hat.masks[1]["0"].float().mean()))
    pyplot.close("all")


def test_frozen_layers_and_residual_streams_are_frozen_after_the_first_task_and_new_heads_are_free():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.short, self.scale = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1), nn.Parameter(torch.ones(6))
            self.a, self.b = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1)
            self.heads = gnt.MultiHead(6, [2, 2])

        def forward(self, x: Tensor, task: int = 0) -> Tensor:
            x = torch.relu(self.stem(x))
            x = self.short(x) + self.b(torch.sigmoid(self.a(x)))  # sigmoid(0) is not 0
            return self.heads(torch.relu(x * self.scale[:, None, None]).mean((2, 3)), task)

    net, x = Residual(), torch.randn(6, *IMAGE_SHAPE)
    groups = gnt.trace(net, examples=[(x, 0), (x, 1)])
    hat = gnt.HAT(net, groups, sparsity=0.1, generator=torch.Generator().manual_seed(7))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05, weight_decay=0.1)
    before: dict[str, Tensor] = {}
    for task in range(2):
        hat.begin(task, optimizer, steps_per_epoch=2)
        before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
        for _ in range(3):
            optimizer.zero_grad()
            (F.cross_entropy(net(x, task), torch.arange(6) % 2) + hat.penalty()).backward()
            optimizer.step()
        hat.end()
    moved = {name for name, parameter in net.named_parameters() if not parameter.detach().equal(before[name])}
    assert not moved & {"short.bias", "b.bias", "scale", "heads.heads.task_0.0.weight"}
    assert moved >= {"heads.heads.task_1.0.weight", "heads.heads.task_1.0.bias", "a.weight"}
    with pytest.raises(ValueError, match="no group has scale"):
        refuse(net, x)


def refuse(net: nn.Module, x: Tensor) -> None:
    other = copy.deepcopy(net)
    gnt.HAT(other, gnt.trace(other, examples=[(x, 0), (x, 1)]), uncovered="refuse")


@pytest.mark.parametrize("form", ["update", "gradient"])
def test_weights_are_held_before_another_optimizer_steps_and_when_they_are_trained_later_in_a_task(form):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.rest = nn.Linear(4, 4), mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(x + self.stem(x))

    net = Net()
    hat = gnt.HAT(net, gnt.walk(net.rest), s_max=8.0, sparsity=0.01, embedding=(0.1, 0.5), apply=form)
    optimizer = torch.optim.SGD(net.rest.parameters(), **FAST)
    other = torch.optim.SGD(net.stem.parameters(), **FAST)
    for task in range(2):
        first = net.rest[0].requires_grad_(task == 0)
        hat.begin(task, optimizer, steps_per_epoch=2)
        for step in range(4):
            if step == 2:
                first.requires_grad_(True)
            other.zero_grad()
            optimizer.zero_grad()
            loss(hat, step).backward()
            other.step()
            optimizer.step()
        hat.end()
        if task == 0:
            before = outputs(hat, inputs(net))[0]
    assert torch.equal(outputs(hat, inputs(net))[0], before)


def test_lbfgs_must_hold_the_embedding_from_the_start():
    net, hat, _ = make(s_max=8.0)
    before = copy.deepcopy(hat.state_dict())
    with pytest.raises(ValueError, match=r"hat\.embedding"):
        hat.begin(0, torch.optim.LBFGS(net.parameters()), steps_per_epoch=2)
    assert hat.task is None
    assert_same(hat.state_dict(), before)
    optimizer = torch.optim.LBFGS([*net.parameters(), hat.embedding], lr=0.1, max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(hat, 0)
        total.backward()
        return total

    with hat.learning(0, optimizer, steps_per_epoch=2):
        optimizer.step(closure)


def test_units_of_a_group_that_a_task_does_not_run_stay_free():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.branches = nn.Linear(4, 6), nn.ModuleList(mlp(6, 5, 2) for _ in range(2))

        def forward(self, x: Tensor, task: int) -> Tensor:
            return self.branches[task](torch.relu(self.first(x)))

    net, x = Branches(), torch.randn(6, 4)
    hat = gnt.HAT(net, gnt.trace(net, examples=[(x, 0), (x, 1)]), sparsity=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    hat.begin(0, optimizer, steps_per_epoch=1)
    net(x, 0).sum().backward()
    optimizer.step()
    hat.end()
    used = {name: bool(mask.any()) for name, mask in hat.masks[0].items()}
    assert used == {"first": True, "branches.0.0": True, "branches.1.0": False}


@pytest.mark.parametrize("engine_first", [True, False])
def test_an_attached_engine_steps_after_weights_have_their_values_back(engine_first):
    net, hat, optimizer = make()
    learn_task(hat, optimizer, 0)
    frozen = net[2].weight.detach().clone()
    seen = []

    class Watch(gnt.GnT):
        def step_recorded(self) -> bool:
            seen.append(net[2].weight.detach().clone())
            return super().step_recorded()

    def attach() -> None:
        Watch(net, optimizer, replacement_rate=0.0).attach()

    if engine_first:
        attach()
    hat.begin(1, optimizer, steps_per_epoch=2)
    if not engine_first:
        attach()
    learn_steps(hat, optimizer, range(1))
    held = torch.outer(hat.masks[0]["2"], hat.masks[0]["0"])
    assert held.any()
    assert len(seen) == 1
    assert_same(seen[0][held], frozen[held])


def test_answers_to_an_engine():
    net, hat, optimizer = make()
    group, engine_group = hat.groups[0], gnt.walk(net)[0]
    assert not hat.protected(group).any()
    assert hat.movable_bias(net[2].bias).all()
    learn_task(hat, optimizer, 0)
    used = hat.masks[0]
    assert_same(hat.protected(engine_group), used["0"])
    assert hat.protected(engine_group) is hat.protected(engine_group)
    assert_same(hat.movable_bias(net[2].bias), ~used["2"])
    assert not hat.movable_bias(net[4].bias).any()  # the output layer has been trained
    assert hat.movable_bias(nn.Linear(2, 2).bias) is None
    assert hat.protected(gnt.walk(mlp())[0]) is None
    assert hat.available(group) is None
    hat.begin(1, optimizer, steps_per_epoch=2)
    assert_same(hat.protected(group), used["0"])
    assert_same(hat.available(engine_group), hat.embedding[:8] > 0)


def test_a_replaced_unit_keeps_its_embedding_and_loses_its_optimizer_state():
    net, hat, optimizer = make()
    hat.begin(0, optimizer, steps_per_epoch=4)
    engine = gnt.GnT(net, optimizer, follow=[hat])
    learn_steps(hat, optimizer, range(2))
    e, momentum = hat.embedding.detach().clone(), optimizer.state[hat.embedding]["momentum_buffer"]
    before = momentum.clone()
    engine.replace([torch.tensor([1, 3]), torch.tensor([0])])
    assert_same(hat.embedding.detach(), e)
    reset = torch.zeros(14, dtype=torch.bool).index_fill(0, torch.tensor([1, 3, 8]), True)
    assert_same(momentum, before.masked_fill(reset, 0.0))


# steps


@pytest.mark.parametrize("form", ["update", "gradient"])
def test_a_skipped_step_of_a_gradscaler_changes_nothing(form):
    results = []
    for overflow in (False, True):
        net, hat, optimizer = make(protection=Adaptive(0.1), apply=form)
        learn_task(hat, optimizer, 0)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
        hat.begin(1, optimizer, steps_per_epoch=4)
        for step in range(3):
            if overflow and step == 1:
                optimizer.zero_grad()
                scaler.scale(loss(hat, 9) * torch.inf).backward()
                scaler.step(optimizer)
                scaler.update(4.0)
            optimizer.zero_grad()
            scaler.scale(loss(hat, step)).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append((dict(net.state_dict()), hat.embedding.detach(), hat.scale))
    assert_same(*results)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_forwards_use_the_gates_of_the_step(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self, on: bool) -> None:
            super().__init__()
            self.net, self.on = mlp(), on

        def forward(self, x: Tensor) -> Tensor:
            x = x.requires_grad_()
            return checkpoint(self.net, x, use_reentrant=reentrant) if self.on else self.net(x)

    results = []
    for on in (False, True):
        net = Checkpointed(on)
        hat = gnt.HAT(net, gnt.walk(net.net), sparsity=0.1, generator=torch.Generator().manual_seed(7))
        optimizer = torch.optim.SGD(net.parameters(), **FAST)
        for task in range(2):
            learn_task(hat, optimizer, task)
        results.append((dict(net.state_dict()), hat.masks))
    assert_same(*results)


def test_rates_in_the_unit_interval_fall_with_use_and_sparsity_and_grow_with_alpha():
    m, f = torch.arange(5.0), torch.tensor(2.0)
    rule = Adaptive(0.1)
    rates = rule.rate(m, f)
    assert rates[0] == 1
    assert bool((rates.diff() < 0).all())
    assert bool((rates > 0).all())
    assert bool((rule.rate(m[1:], 2 * f) < rates[1:]).all())
    sparsity = torch.tensor([0.3])
    assert bool((Adaptive(0.2).factors(sparsity) < rule.factors(sparsity)).all())
    torch.testing.assert_close(Adaptive(1e-30).rate(m, Adaptive(1e-30).factors(sparsity)), (m == 0).float())


@pytest.mark.parametrize("rule", [Constant(1.0), Constant(0.25), Random(), Adaptive(1e-12)], ids=repr)
def test_ablations_move_weights_of_used_units_by_their_share(rule):
    net, hat, optimizer = make(protection=rule)
    learn_task(hat, optimizer, 0)
    hat.begin(1, optimizer, steps_per_epoch=2)
    used = torch.outer(hat.masks[0]["2"], hat.masks[0]["0"])
    expected = {"Constant(alpha=1.0)": 1.0, "Constant(alpha=0.25)": 0.25}.get(repr(rule))
    plain_net, plain_optimizer = copy.deepcopy((net, optimizer))
    before = net[2].weight.detach().clone()
    loss(hat, 0).backward()
    for own, other in zip(net.parameters(), plain_net.parameters(), strict=True):
        other.grad = own.grad.clone()
    optimizer.step()
    plain_optimizer.step()
    share = (net[2].weight.detach() - before)[used] / (plain_net[2].weight.detach() - before)[used]
    if expected is None:
        assert bool((share >= -1e-3).all())
        assert bool((share < 1.001).all())
        assert (isinstance(rule, Random) and len(share.unique()) > 1) or bool((share.abs() < 1e-3).all())
    else:
        torch.testing.assert_close(share, torch.full_like(share, expected), rtol=1e-2, atol=0)


@pytest.mark.parametrize("eps", [1e-8, 1e-14])
def test_rates_of_the_update_form_act_alike_whatever_the_optimizer_makes_of_the_gradient(eps):
    net, hat, _ = make(protection=Adaptive(0.1), sparsity=0)
    optimizer = torch.optim.Adam(net.parameters(), eps=eps)
    hat.begin(0, optimizer, steps_per_epoch=1)
    learn_steps(hat, optimizer, range(1))
    hat.end()
    hat.begin(1, optimizer, steps_per_epoch=1)
    plain, plain_optimizer = copy.deepcopy((net, optimizer))
    before = net[2].weight.detach().clone()
    loss(hat, 0).backward()
    for own, other in zip(net.parameters(), plain.parameters(), strict=True):
        other.grad = own.grad.clone()
    rates = next(r for p, r in zip(hat._conditioning.parameters, hat._conditioning.current(), strict=True)
                 if p.parameter is net[2].weight)  # fmt: skip
    optimizer.step()
    plain_optimizer.step()
    expected = before + rates * (plain[2].weight.detach() - before)
    torch.testing.assert_close(net[2].weight.detach(), expected, rtol=1e-5, atol=1e-8)
    assert bool((rates < 1).any())


@pytest.mark.parametrize("rule", [None, Adaptive(0.1)], ids=["HAT", "AdaHAT"])
@pytest.mark.parametrize("form", ["update", "gradient"])
def test_steps_do_not_wait_for_the_device(rule, form):
    net, hat, optimizer = make(conv_net(), protection=rule, apply=form)
    learn_task(hat, optimizer, 0, IMAGE_SHAPE)
    hat.begin(1, optimizer, steps_per_epoch=2)
    learn_steps(hat, optimizer, range(1), IMAGE_SHAPE)
    x = inputs(net, IMAGE_SHAPE)
    with NoSynchronization():
        optimizer.zero_grad()
        (net(x).square().mean() + hat.penalty()).backward()
        optimizer.step()


def test_embeddings_are_drawn_as_told_and_clamped_after_each_step():
    for given, low, high in (("normal", -6, 6), ((0.0, 2.0), 0, 2), ((-1, 0), -1, 0)):
        _, hat, optimizer = make(embedding=given, embedding_clamp=1.5)
        hat.begin(0, optimizer, steps_per_epoch=1)
        e = hat.embedding.detach().clone()
        assert bool((e >= max(low, -1.5)).all())
        assert bool((e <= min(high, 1.5)).all())
    with torch.no_grad():
        hat.embedding.grad = torch.linspace(-1e3, 1e3, 14)
    hat.penalty()
    optimizer.step()
    assert_same(hat.embedding.detach().abs(), torch.full((14,), 1.5))
    hat.end()
    _, hat, optimizer = make(embedding="last")
    learn_task(hat, optimizer, 0)
    e = hat.embedding.detach().clone()
    hat.begin(1, optimizer, steps_per_epoch=1)
    assert_same(hat.embedding.detach(), e)


def test_shared_running_statistics_move_on():
    net, hat, optimizer = make(conv_net(), norms="shared")
    x = inputs(net, IMAGE_SHAPE)
    learn_task(hat, optimizer, 0, IMAGE_SHAPE)
    first, mean = outputs(hat, x)[0], net[1].running_mean.clone()
    learn_task(hat, optimizer, 1, IMAGE_SHAPE)
    with hat.use(0):
        assert not net[1].running_mean.equal(mean)
    assert not outputs(hat, x)[0].equal(first)


# saving and copies


@pytest.mark.parametrize("kind", ["HAT", "AdaHAT", "gradient form"])
def test_a_run_resumed_in_the_middle_of_an_epoch_equals_the_uninterrupted_one(kind):
    given = {"HAT": {}, "AdaHAT": {"protection": Adaptive(0.1)}, "gradient form": {"apply": "gradient"}}[kind]
    net, hat, optimizer = make(conv_net(), **given)
    learn_task(hat, optimizer, 0, IMAGE_SHAPE)
    hat.begin("b", optimizer, steps_per_epoch=4)
    learn_steps(hat, optimizer, range(3), IMAGE_SHAPE)
    file = io.BytesIO()
    torch.save([each.state_dict() for each in (net, hat, optimizer)], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    other = conv_net()
    other.load_state_dict(states[0])  # the statistics with which tasks start are those of the first HAT
    _, resumed, new_optimizer = make(other, **given)
    resumed.load_state_dict(states[1])
    with pytest.raises(RuntimeError, match=r"call resume\(optimizer\)"):
        other(inputs(other, IMAGE_SHAPE))
    other.load_state_dict(states[0])
    resumed.resume(new_optimizer)
    new_optimizer.load_state_dict(states[2])
    results = []
    for one, masks, own in ((net, hat, optimizer), (other, resumed, new_optimizer)):
        learn_steps(masks, own, range(3, 6), IMAGE_SHAPE)
        masks.end()
        learn_task(masks, own, "c", IMAGE_SHAPE)
        x = inputs(net, IMAGE_SHAPE)
        results.append((dict(one.state_dict()), masks.masks, outputs(masks, x), masks.get_extra_state()))
    assert_same(*results)


def test_saved_entries_that_do_not_fit_each_other_or_the_network_are_refused_before_anything_is_loaded():
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1))
    _, hat, optimizer = make(net)
    learn_task(hat, optimizer, 0, steps=2)
    hat.begin(1, optimizer, steps_per_epoch=2)
    learn_steps(hat, optimizer, range(1))
    saved, wide = copy.deepcopy(hat.state_dict()), {"1.running_mean": torch.zeros(3)}
    for name, wrong in (
        ("steps_per_epoch", 0),
        ("open", [0, True]),
        ("task_buffers", []),
        ("task_buffers", [wide]),
        ("initial_buffers", wide),
        ("live_buffers", [wide]),
    ):
        faulty = copy.deepcopy(saved)
        faulty["_extra_state"][name] = wrong
        with pytest.raises(ValueError, match=f"{name}|1.running_mean with shape"):
            hat.load_state_dict(faulty)
        assert_same(hat.state_dict(), saved)
    closed = copy.deepcopy(saved)
    closed["_extra_state"]["open"] = []
    with pytest.raises(ValueError, match="selected"):
        hat.load_state_dict(closed)
    hat.load_state_dict(saved)


def test_copies_go_on_alone_and_copies_of_the_network_have_no_gates():
    net, hat, optimizer = make()
    learn_task(hat, optimizer, 0)
    hat.begin(1, optimizer, steps_per_epoch=4)
    learn_steps(hat, optimizer, range(2))
    copies = copy.deepcopy((net, hat, optimizer))
    before = copy.deepcopy(dict(net.state_dict()))
    learn_steps(copies[1], copies[2], range(2, 4))
    assert_same(dict(net.state_dict()), before)
    learn_steps(hat, optimizer, range(2, 4))
    assert_same(dict(net.state_dict()), dict(copies[0].state_dict()))
    assert_same(hat.get_extra_state(), copies[1].get_extra_state())
    alone, plain = copy.deepcopy(net), mlp()
    plain.load_state_dict(net.state_dict())
    assert_same(alone(inputs(net)).detach(), plain(inputs(net)).detach())


def test_close_removes_all_hooks_and_the_network_never_had_other_keys():
    net, hat, optimizer = make(apply="gradient")
    assert set(net.state_dict()) == set(mlp().state_dict())
    learn_task(hat, optimizer, 0)
    hat.begin(1, optimizer, steps_per_epoch=2)
    hat.close()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not any(parameter._backward_hooks for parameter in net.parameters())
    with pytest.raises(RuntimeError, match="closed"):
        hat.begin(2, optimizer, steps_per_epoch=2)
    gnt.HAT(net, gnt.walk(net))


def test_a_learner_begins_and_ends_tasks():
    net = mlp()
    hat = gnt.HAT(net, gnt.walk(net), sparsity=0.1)
    learner = gnt.Backprop(net, opt="sgd", step_size=0.1, loss="mse", methods=[hat])
    x, y, seen = torch.randn(6, 4), torch.randn(6, 2), []
    for task in range(2):
        learner.begin_task(task=task, steps_per_epoch=2)
        for _ in range(3):
            learner.learn(x, y + task)
        learner.end_task()
        seen.append(outputs(hat, x)[0])
    assert_same(*seen)
    state = learner.state_dict()
    learner.begin_task(task="c", steps_per_epoch=2)
    learner.load_state_dict(state)
    assert hat.task is None
    assert hat.tasks == [0, 1]


# refusals


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"s_max": 0}, "s_max must be a finite number >= 1, got 0"),
        ({"s_max": 0.5}, "s_max must be a finite number >= 1, got 0.5"),
        ({"s_max": math.inf}, "s_max must be a finite number >= 1, got inf"),
        ({"sparsity": -0.1}, "sparsity must be a finite number >= 0, got -0.1"),
        ({"sparsity_mode": "crosss"}, "got 'crosss'; did you mean 'cross'"),
        ({"embedding": "last_task"}, "embedding must be one of 'normal', 'last', got 'last_task'; did you mean 'last'"),
        ({"embedding": (1, 0)}, "a pair"),
        ({"compensation": "publish"}, "did you mean 'published'"),
        ({"apply": "weights"}, "apply must be one of 'update', 'gradient'"),
        ({"uncovered": "x"}, "uncovered must be one of"),
        ({"norms": "independent"}, "norms must be one of 'per_task', 'shared'"),
        ({"min_free": -1}, "min_free must be an integer >= 0"),
        ({"protect_above": 1}, "protect_above must be 0 where weights of earlier tasks are fixed"),
        ({"embedding_clamp": 0}, "embedding_clamp must be a finite number > 0"),
        ({"protection": "hard"}, "protection must be Hard"),
        ({"groups": []}, "groups must be the unit groups"),
        ({"groups": mlp()}, "of gnt.trace or gnt.walk, got Sequential$"),
        ({"groups": gnt.walk(mlp())}, "is not of this model"),
        ({"idle": 1}, "idle must be True or False"),
    ],
    ids=str,
)
def test_settings_that_are_refused(given, message):
    net = mlp()
    arguments = {"groups": gnt.walk(net), **given}
    with pytest.raises((TypeError, ValueError), match=message):
        gnt.HAT(net, **arguments)
    assert not net[2]._forward_pre_hooks


@pytest.mark.parametrize("kind", [gnt.HAT, gnt.AdaHAT, gnt.FGAdaHAT])
def test_the_network_may_be_given_by_the_name_of_before_with_a_warning(kind):
    net, alpha = mlp(), {} if kind is gnt.HAT else {"alpha": 0.1}
    with pytest.warns(DeprecationWarning, match=f"the argument model of {kind.__name__} is called net") as warned:
        hat = kind(model=net, groups=gnt.walk(net), **alpha)
    assert warned[0].filename == __file__
    assert hat.net is hat.model is net
    hat.close()
    assert next(iter(inspect.signature(kind).parameters)) == "net"
    with pytest.warns(DeprecationWarning, match="the argument model of attribute is called net"):
        gnt.importance.attribute(model=net, groups=gnt.walk(net), x=torch.zeros(2, 4), target=torch.zeros(2).long())


def test_other_refusals_leave_everything_as_it_was():
    net, hat, optimizer = make()
    groups = gnt.walk(net)
    for wrong, message in (
        (lambda: gnt.HAT(net, groups), "is gated by another HAT"),
        (lambda: gnt.HAT(mlp(), groups), "is not of this model"),
        (lambda: gnt.HAT(net, [*groups, groups[0]]), "listed twice"),
        (lambda: gnt.AdaHAT(net, groups, alpha=0), "alpha must be"),
        (lambda: gnt.AdaHAT(net, groups, alpha=1, epsilon=0), "epsilon must be"),
        (lambda: gnt.AdaHAT(net, groups, alpha=1, variant="no"), "variant must be one of"),
        (lambda: gnt.HAT(bn := nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, momentum=None), nn.Linear(3, 1)),
                         gnt.walk(bn)), "momentum=None"),
        (lambda: hat.begin(0.5, optimizer, steps_per_epoch=1), "task must be an integer or a string"),
        (lambda: hat.begin(0, optimizer, steps_per_epoch=0), "steps_per_epoch must be an integer >= 1"),
        (lambda: hat.begin(0, net, steps_per_epoch=1), "optimizer must be a torch.optim.Optimizer"),
        (lambda: hat.begin(0, torch.optim.SGD(net[0].parameters()), steps_per_epoch=1), "does not hold 2.weight"),
        (lambda: hat.use(0), r"task must be one that has begun \(\[\]\) or None, got 0"),
        (lambda: hat.end(), "no task is open"),
        (lambda: hat.penalty(), "no task is open"),
        (lambda: hat.resume(optimizer), "no task is open"),
        (lambda: hat.plot(), "no task has ended"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
            wrong()
    assert len(optimizer.param_groups) == 1
    hat.begin(0, optimizer, steps_per_epoch=1)
    for wrong, message in (
        (lambda: hat.begin(1, optimizer, steps_per_epoch=1), "task 0 is open"),
        (lambda: hat.end(), "task 0 is empty"),
        (lambda: optimizer.step(), "no step of task 0 has used penalty"),
    ):
        before = copy.deepcopy(dict(net.state_dict()))
        with pytest.raises(RuntimeError, match=message):
            wrong()
        assert_same(dict(net.state_dict()), before)
    learn_steps(hat, optimizer, range(1))
    with pytest.raises(TypeError, match="refresh must be an engine"):
        hat.end(refresh="engine")
    assert (hat.task, hat.tasks) == (0, [])
    hat.end()
    with pytest.raises(RuntimeError, match="no task is open for this SGD"):
        optimizer.step()
    with pytest.raises(ValueError, match="task must be a new id, got 0"):
        hat.begin(0, optimizer, steps_per_epoch=1)
    for change, message in (
        ({"s_max": 5.0}, "was saved with the settings"),
        ({"protection": Adaptive(1.0)}, "was saved with the settings"),
    ):
        _, other, _ = make(**change)
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(hat.state_dict())
        assert not other.embedding.any()
    _, wider, _ = make(mlp(4, 9, 6, 2))
    with pytest.raises(ValueError, match="is of another network"):
        wider.load_state_dict(hat.state_dict())


def test_warnings_of_decay_and_of_full_groups():
    net, hat, optimizer = make(embedding=(1.0, 1.0))
    decayed = torch.optim.SGD([*net.parameters(), hat.embedding], weight_decay=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="decays the embedding"):
            hat.begin(0, decayed, steps_per_epoch=1)
    assert hat.task is None
    assert not hat.embedding.any()
    with pytest.warns(UserWarning, match="decays the embedding"):
        hat.begin(0, decayed, steps_per_epoch=1)
    learn_steps(hat, decayed, range(1))
    hat.end()
    with pytest.warns(UserWarning, match="no capacity is left in group '0', '2'"):
        hat.begin(1, optimizer, steps_per_epoch=1)
