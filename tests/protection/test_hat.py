"""`HAT`: gates, sparsity, masks in force and the statistics of a task."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import gnt
from gnt.metrics import Probe
from gnt.protection._gate_function import annealed_scale, gate, gate_slope
from gnt.protection._sparsity import SparsityTerm
from gnt.protection._unit_layout import UnitLayout
from tests.helpers.small_runs import IMAGE_SHAPE, assert_same, conv_net, mlp
from tests.protection.masked_runs import inputs, learn_steps, learn_task, make_hat, outputs

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")


def test_the_scale_grows_from_its_reciprocal_to_s_max_in_each_epoch():
    assert [annealed_scale(b, 5, 4.0) for b in range(1, 6)] == pytest.approx([0.25, 1.1875, 2.125, 3.0625, 4.0])
    assert annealed_scale(1, 1, 400.0) == 400.0
    for batches in (2, 469, 160_000):
        assert all(annealed_scale(b, batches, 400.0) > 0 for b in (1, 2, batches))
    _, hat, optimizer = make_hat(s_max=4.0)
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


def test_masks_in_force_and_running_statistics_are_those_of_the_task():
    net, hat, optimizer = make_hat(conv_net())
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
    net, hat, optimizer = make_hat()
    hat.begin(0, optimizer, steps_per_epoch=2)
    gnt.trace(net, inputs(net))
    assert not any(hat._trained.current)
    learn_steps(hat, optimizer, range(2))
    assert all(hat._trained.current)


def test_the_mean_of_masks_is_counted_and_reported():
    _net, hat, optimizer = make_hat()
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
    _net, hat, optimizer = make_hat()
    for task in range(2):
        learn_task(hat, optimizer, task)
    left, right = hat.plot()
    first, second = (torch.cat(list(mask.values())) for mask in hat.masks.values())
    share = float((first & second).sum() / first.sum())
    assert left.images[0].get_array()[0, 1] == pytest.approx(share)
    assert right.lines[0].get_ydata()[1] == pytest.approx(float(hat.masks[1]["0"].float().mean()))
    pyplot.close("all")


def test_embeddings_are_drawn_as_told_and_clamped_after_each_step():
    for given, low, high in (("normal", -6, 6), ((0.0, 2.0), 0, 2), ((-1, 0), -1, 0)):
        _, hat, optimizer = make_hat(embedding=given, embedding_clamp=1.5)
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
    _, hat, optimizer = make_hat(embedding="last")
    learn_task(hat, optimizer, 0)
    e = hat.embedding.detach().clone()
    hat.begin(1, optimizer, steps_per_epoch=1)
    assert_same(hat.embedding.detach(), e)


def test_shared_running_statistics_move_on():
    net, hat, optimizer = make_hat(conv_net(), norms="shared")
    x = inputs(net, IMAGE_SHAPE)
    learn_task(hat, optimizer, 0, IMAGE_SHAPE)
    first, mean = outputs(hat, x)[0], net[1].running_mean.clone()
    learn_task(hat, optimizer, 1, IMAGE_SHAPE)
    with hat.use(0):
        assert not net[1].running_mean.equal(mean)
    assert not outputs(hat, x)[0].equal(first)
