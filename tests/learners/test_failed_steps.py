"""A step that fails leaves buffers, generators, parameters and optimizer as they were, wherever the error is raised."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gnt
from gnt.learners._step_backup import SMALL, StepBackup
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, full_state, mlp


class FailingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ZeroDivisionError("in the backward")


class StatefulLayer(nn.Module):
    """Draws from a generator of its own, and changes buffers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.register_buffer("in_place", torch.zeros(3))
        self.register_buffer("exchanged", torch.zeros(SMALL + 1))
        self.register_buffer("large", torch.zeros(SMALL + 1))
        self.register_buffer("hidden", None)
        self.fail_in_forward = False

    def forward(self, x: Tensor) -> Tensor:
        self.in_place += 1
        self.exchanged = self.exchanged + x.detach().mean()
        self.large[0] += 1
        self.hidden = x.detach()
        if self.fail_in_forward:
            raise ZeroDivisionError("in the forward")
        return x + 0.1 * torch.randn(x.shape, generator=self.generator)


def stateful_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)),
        StatefulLayer(),
    )


def in_forward(learner):
    learner.net[-1].fail_in_forward = True


def in_loss(learner):
    learner.loss = lambda output, y: 1 / 0


def in_backward(learner):
    learner.loss = lambda output, y: FailingBackward.apply((output - y).square().mean())


def nonfinite_loss(learner):
    learner.loss = lambda output, y: (output - y).square().mean() / 0.0


def in_optimizer_step(learner):
    def fail(*_):
        raise ZeroDivisionError("in the optimizer's step")

    learner.opt.register_step_pre_hook(fail)


def everything(learner):
    layer = learner.net[-1]
    state = full_state(learner.net, learner.opt, getattr(learner, "gnt", None))
    return [state, layer.generator.get_state(), layer.hidden is None or layer.hidden.clone()]


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("fail", [in_forward, in_loss, in_backward, nonfinite_loss, in_optimizer_step])
@pytest.mark.parametrize("kind", [gnt.Backprop, gnt.ContinualBackprop])
def test_a_failed_step_changes_nothing(kind, fail, steps):
    settings = {**FREQUENT_REPLACEMENT, "generator": torch.Generator().manual_seed(1)}
    settings = {} if kind is gnt.Backprop else {**settings, "layers": (net := stateful_net())[:-1]}
    learner = kind(stateful_net() if kind is gnt.Backprop else net, momentum=0.9, **settings)
    for t in range(steps):
        learner.learn(*batch(t))
    before = everything(learner)
    fail(learner)
    with pytest.raises((ZeroDivisionError, FloatingPointError)):
        learner.learn(*batch(steps))
    assert_same(everything(learner), before)
    assert kind is gnt.Backprop or not learner.gnt.waiting


def test_large_buffers_that_a_step_only_reads_are_not_copied():
    net = mlp()
    net[0].register_buffer("table", torch.zeros(SMALL + 1))
    net[0].register_forward_hook(lambda layer, args, output: output + layer.table.mean() + layer.table[0])
    backup = StepBackup([net])
    for t in range(2):
        backup.save()
        net(batch(t)[0]).sum().backward()
        (kept,) = backup._kept
        assert torch._C._data_address(kept.value) == torch._C._data_address(net[0].table)
        backup.accept()


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_large_buffer_that_begins_to_change_in_a_failing_step_is_restored(steps):
    net = stateful_net()
    net[-1].forward = lambda x: x
    learner = gnt.Backprop(net)
    for t in range(steps):
        learner.learn(*batch(t))
    before = everything(learner)
    for _ in range(2):
        net[-1].forward = lambda x: (net[-1].large.add_(1), x / 0)[1]
        with pytest.raises(FloatingPointError, match="nothing was changed"):
            learner.learn(*batch(steps))
        assert_same(everything(learner), before)
    net[-1].forward = lambda x: (net[-1].large.add_(1), x)[1]
    for t in range(3):
        learner.learn(*batch(t))
    assert net[-1].large[0] == 3


@pytest.mark.parametrize("share", [Tensor.numpy, np.from_dlpack, Tensor.detach], ids=["numpy", "dlpack", "view"])
@pytest.mark.parametrize("steps", [0, 2])
def test_arrays_and_views_of_a_large_buffer_have_its_values_after_a_step_that_changes_it(share, steps):
    net = stateful_net()
    net[-1].forward = lambda x: x
    learner = gnt.Backprop(net)
    for t in range(steps):
        learner.learn(*batch(t))
    shared = share(net[-1].large)
    net[-1].forward = lambda x: (net[-1].large.add_(1), x)[1]
    learner.learn(*batch(steps))
    assert net[-1].large[0] == shared[0] == 1


def test_large_buffers_in_the_memory_of_an_array_are_restored():
    net, array = stateful_net(), np.zeros(SMALL + 1, dtype=np.float32)
    net[-1].large = torch.from_numpy(array)
    net[-1].forward = lambda x: (net[-1].large.add_(1), x / 0)[1]
    with pytest.raises(FloatingPointError, match="nothing was changed"):
        gnt.Backprop(net).learn(*batch(0))
    assert not array.any()


def test_the_error_for_weights_that_are_not_finite_says_what_has_changed():
    def nets():
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    ensemble = gnt.Ensemble(nets, [1, 2], **FREQUENT_REPLACEMENT)
    learner = gnt.ContinualBackprop(nets(), **FREQUENT_REPLACEMENT)
    for each, (x, y) in ((learner, batch(0)), (ensemble, [torch.stack([t, t]) for t in batch(0)])):
        each.learn(x, y)
        state = copy.deepcopy(each.gnt.state_dict())
        for options in each.opt.param_groups:
            options["lr"] = float("inf")
        with pytest.raises(FloatingPointError, match="are not finite") as refused:
            each.learn(x, y)
        assert "the optimizer has stepped, so weights" in str(refused.value)
        assert "nothing was changed" not in str(refused.value)
        assert_same(each.gnt.state_dict(), state)


def test_an_ensemble_restores_dropout_and_running_statistics():
    def make_net():
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2))

    ensemble = gnt.Ensemble(make_net, [1, 2])
    x, y = (torch.stack([t, t]) for t in batch(0))
    ensemble.learn(x, y)
    before = copy.deepcopy(ensemble.state_dict())
    for bad in (y * torch.nan, y[:, :1]):
        with pytest.raises((FloatingPointError, ValueError)):
            ensemble.learn(x, bad)
        assert_same(ensemble.state_dict(), before)
    in_optimizer_step(ensemble)
    with pytest.raises(ZeroDivisionError):
        ensemble.learn(x, y)
    assert_same(ensemble.state_dict(), before)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output, y: output.to(torch.complex64).mean(), "real floating-point numbers, got torch.complex64"),
        (lambda output, y: output.argmax(1).sum(), "real floating-point numbers, got torch.int64"),
        (lambda output, y: output.detach().mean(), "is computed from a detached copy"),
    ],
)
def test_losses_without_a_real_gradient_are_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        gnt.Backprop(mlp(), loss=loss).learn(*batch(0))
    with pytest.raises(ValueError, match=message):
        gnt.Ensemble(mlp, [1], loss=loss).learn(*(t[None] for t in batch(0)))


def test_a_frozen_network_is_refused():
    learner, ensemble = gnt.Backprop(mlp()), gnt.Ensemble(mlp, [1], replacement_rate=0.0)
    learner.net.requires_grad_(False)
    ensemble.net.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that the output depends on has requires_grad=True"):
        learner.learn(*batch(0))
    with pytest.raises(ValueError, match="no parameter that the output depends on has requires_grad=True"):
        ensemble.learn(*(t[None] for t in batch(0)))
    learner.net[-1].requires_grad_(True)
    before = copy.deepcopy(learner.net[0].weight)
    assert learner.learn(*batch(0)).loss > 0
    assert torch.equal(before, learner.net[0].weight)
