"""Unusual but valid setups: dtypes, moved networks, empty batches, parameters without gradient, layers without bias."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.helpers.small_runs import (
    IMAGE_SHAPE,
    assert_same,
    batch,
    conv_net,
    full_state,
    make_run,
    mlp,
    replaced,
    train,
)


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
@pytest.mark.parametrize("opt", ["sgd", "adamgnt"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_dtype(dtype, wide, opt, when):
    net = conv_net()
    if when == "before":
        net.to(dtype)
    net, optimizer, engine = make_run(net, opt=opt)
    if when == "after":
        train(net, optimizer, engine, range(4), *IMAGE_SHAPE)
        before = [group.state.age for group in engine.groups]
        net.to(dtype)
        optimizer.load_state_dict(optimizer.state_dict())  # required by torch: moves the state to the parameters' dtype
        assert_same([group.state.age for group in engine.groups], before)
    train(net, optimizer, engine, range(8), *IMAGE_SHAPE)
    for group in engine.groups:
        state = group.state
        assert (state.utility.dtype, state.mean_feature.dtype, state.age.dtype) == (wide, wide, torch.int64)
        assert state.replaced > 0
    assert not net[-1].weight[:, engine.groups[-1].state.age == 0].any()
    assert all(p.dtype == dtype for p in net.parameters())
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_ages_in_half_precision_count_beyond_256():
    *_, engine = make_run(mlp().bfloat16(), maturity_threshold=280, replacement_rate=1.0)
    features = [torch.rand(2, n, dtype=torch.bfloat16) for n in (8, 6)]
    for _ in range(280):
        assert not any(map(len, engine.step(features)))
    assert [len(units) for units in engine.step(features)] == [8, 6]
    engine.step(features)
    assert engine.groups[0].state.age.tolist() == [1] * 8


def test_a_network_may_change_dtype_between_select_and_replace():
    net, _, engine = whole = make_run(mlp())
    train(*whole, range(6))
    net(batch(6)[0])
    engine.update()
    units = engine.select()
    net.double()
    engine.replace(units)
    net(batch(7)[0].double())
    engine.step()
    assert engine.groups[0].state.utility.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_saved_state_keeps_its_bits_in_every_dtype(dtype, when):
    """Also if the engine was built before its network was converted to that dtype."""
    first = make_run(mlp().to(dtype))
    train(*first, range(6))
    second = make_run(mlp(seed=1).to(dtype) if when == "before" else mlp(seed=1))
    second[0].to(dtype)
    for target, source in zip(second, first, strict=True):
        target.load_state_dict(copy.deepcopy(source.state_dict()))
    assert_same(full_state(*second), full_state(*first))
    assert_same(*[train(*each, range(6, 10)) for each in (first, second)])
    assert_same(full_state(*second), full_state(*first))


def test_a_batch_of_one():
    net, optimizer, engine = make_run(conv_net())
    for t in range(8):
        x, y = batch(t, *IMAGE_SHAPE, n=1)
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
        engine.step()
    assert min(replaced(engine)) > 0
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_an_empty_batch_changes_nothing():
    net, _, engine = whole = make_run(mlp())
    train(*whole, range(6))
    before = full_state(*whole)
    net(torch.empty(0, 4))
    assert [len(units) for units in engine.step()] == [0, 0]
    assert [len(units) for units in engine.step([torch.empty(0, 8), torch.empty(0, 6)])] == [0, 0]
    net(torch.empty(0, 4))
    engine.update()
    assert_same(full_state(*whole), before)
    train(*whole, range(6, 8))


@pytest.mark.parametrize("learner_class", [gnt.Backprop, gnt.ContinualBackprop])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_learning_from_an_empty_batch_changes_nothing(learner_class, momentum):
    learners = [learner_class(conv_net(), momentum=0.9) for _ in range(2)]
    for learner in learners:
        learner.net[1].momentum = momentum
    for t in range(6):
        for learner in learners:
            learner.learn(*batch(t, *IMAGE_SHAPE))
        step = learners[0].learn(*batch(t, *IMAGE_SHAPE, n=0))
        assert (step.loss.item(), step.output.shape) == (0.0, (0, 2))
        assert [len(units) for units in step.replaced] == ([0] * 3 if learner_class is gnt.ContinualBackprop else [])
    for a, b in zip(*(learner.net.state_dict().values() for learner in learners), strict=True):
        if a.ndim:  # num_batches_tracked counts the empty batch
            assert_same(a, b)
    if learner_class is gnt.ContinualBackprop:
        states = [[g.state.state_dict() for g in learner.gnt.groups] for learner in learners]
        assert_same(*states)


@pytest.mark.parametrize("opt", ["sgd", "adamgnt"])
def test_parameters_without_gradient(opt):
    net, optimizer, engine = make_run(conv_net(), opt=opt)
    net[0].bias.requires_grad_(False)
    net[1].requires_grad_(False)
    for _ in range(6):  # the optimizer has no state yet
        net(batch(0, *IMAGE_SHAPE)[0])
        optimizer.step()
        engine.step()
    for t in range(6):
        optimizer.zero_grad()
        net[:7](batch(t, *IMAGE_SHAPE)[0]).square().mean().backward()  # no gradients for the linear layers
        optimizer.step()
        net(batch(t, *IMAGE_SHAPE)[0])
        engine.discard()
        net(batch(t, *IMAGE_SHAPE)[0])
        engine.step()
    assert min(replaced(engine)) > 2


def net_without_biases() -> nn.Sequential:
    """Layers without bias, and norms without affine parameters or running statistics."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 5, 3, bias=False), nn.BatchNorm2d(5, affine=False), nn.GELU(), nn.Conv2d(5, 4, 3, bias=False)),
        *(nn.BatchNorm2d(4, track_running_stats=False), nn.GELU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16, 6, bias=False), nn.LayerNorm(6, elementwise_affine=False), nn.GELU(), nn.Linear(6, 2, False)),
    )


@pytest.mark.parametrize("opt", ["sgd", "adamgnt"])
@pytest.mark.parametrize("settings", [{}, {"utility": "adaptable_contribution", "accumulate": False}])
def test_layers_without_biases_and_affine_parameters(opt, settings):
    net, _, engine = whole = make_run(net_without_biases(), opt=opt, **settings)
    train(*whole, range(10), *IMAGE_SHAPE)
    assert min(replaced(engine)) > 0
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernels", [None, False])
def test_channels_last_weights_are_replaced_as_contiguous_ones(groups, kernels):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=groups), nn.ReLU(), nn.Conv2d(4, 2, 1))
    copied = copy.deepcopy(net).to(memory_format=torch.channels_last)
    runs = [make_run(each, kernels=kernels) for each in (net, copied)]
    for t in range(9):
        features = [torch.rand(2, n, 4, 4, generator=torch.Generator().manual_seed(t)) for n in (6, 4)]
        for each, optimizer, engine in runs:
            for parameter in each.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            engine.step(features)
    a, b = (each for each, _, _ in runs)
    assert b[2].weight.is_contiguous(memory_format=torch.channels_last)
    for mine, theirs in zip(a.parameters(), b.parameters(), strict=True):
        if mine.ndim > 1 or kernels is False:
            assert_same(mine.detach(), theirs.detach())
        else:  # kernels measure features only with contiguous weights, and round means differently from torch
            torch.testing.assert_close(mine, theirs)
    for a_group, b_group in zip(runs[0][2].groups, runs[1][2].groups, strict=True):
        assert_same(a_group.state.age, b_group.state.age)
        torch.testing.assert_close(a_group.state.utility, b_group.state.utility)  # sums in a different order
    assert min(replaced(runs[0][2])) > 1


def test_engines_of_different_networks_do_not_influence_each_other():
    settings = [{"opt": "sgd"}, {"opt": "adamgnt", "utility": "random"}, {"accumulate": False}]
    single, interleaved = ([make_run(mlp(seed=i), **each) for i, each in enumerate(settings)] for _ in range(2))
    for each in single:
        train(*each, range(8))
    for t in range(8):
        for each in interleaved:
            train(*each, range(t, t + 1))
    assert_same([full_state(*each) for each in interleaved], [full_state(*each) for each in single])
