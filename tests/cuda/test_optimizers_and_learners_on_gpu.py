"""AdamGnT, learners, ensembles, layers, remedies and metrics on a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.metrics import Probe
from gnt.optim import AdamGnT
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, batch, mlp, replaced, train

# torch's compiler uses deprecated functions
COMPILED = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def gradients(parameters, seed):
    source = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=source).to(parameter)


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
def test_adam_gnt_equals_torchs_adam_before_the_first_reset(options):
    nets = [mlp().cuda(), mlp().cuda()]
    adams = [torch.optim.Adam(nets[0].parameters(), **options), AdamGnT(nets[1].parameters(), **options)]
    for seed in range(5):
        for net, adam in zip(nets, adams, strict=True):
            gradients(net.parameters(), seed)
            adam.step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"amsgrad": True}, {"weight_decay": 0.1}], ids=str)
def test_adam_gnt_equals_the_cpu_after_resets(options):
    nets = [mlp().double(), mlp().double().cuda()]
    adams = [AdamGnT(net.parameters(), lr=0.01, **options) for net in nets]
    for seed in range(10):
        for net, adam in zip(nets, adams, strict=True):
            gradients(net.parameters(), seed)
            adam.step()
            if seed % 3 == 2:
                units = torch.tensor([1, 3], device=net[0].weight.device)
                adam.reset_units(net[0].weight, 0, units)
                adam.reset_units(net[2].weight, 1, units)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-9, atol=1e-12)


# nothing is captured
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_a_step_is_refused_while_a_cuda_graph_is_captured():
    net = mlp().cuda()
    adam = AdamGnT(net.parameters())
    gradients(net.parameters(), 0)
    for _ in range(3):
        adam.step()
    torch.cuda.synchronize()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    refused = pytest.raises(RuntimeError, match="AdamGnT cannot step while a CUDA graph is being captured")
    with refused, torch.cuda.graph(torch.cuda.CUDAGraph()):
        adam.step()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@COMPILED
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("opt", ["sgd", "adam"])
def test_learners_replace_units(opt, compile):
    learner = gnt.ContinualBackprop(mlp().cuda(), opt=opt, step_size=0.01, compile=compile, **FREQUENT_REPLACEMENT)
    for t in range(20):
        x, y = (tensor.cuda() for tensor in batch(t))
        step = learner.learn(x, y)
        assert step.loss.isfinite()
    assert min(replaced(learner.gnt)) > 3


@pytest.mark.parametrize("opt", ["sgd", "adam"])
def test_an_ensemble_trains_every_member(opt):
    def make_net():
        return mlp().cuda()

    ensemble = gnt.Ensemble(make_net, [1, 2, 3], opt=opt, step_size=0.01, **FREQUENT_REPLACEMENT)
    for t in range(20):
        x, y = (tensor.cuda().expand(3, -1, -1) for tensor in batch(t))
        loss, output, _ = ensemble.learn(x, y)
        assert output.shape == (3, 8, 2)
    assert loss.isfinite().all()
    assert next(ensemble.member(2).parameters()).is_cuda


def test_cbp_layers_replace_units():
    first, last = nn.Linear(4, 16), nn.Linear(16, 2)
    layer = gnt.CBPLinear(first, last, replacement_rate=0.1, maturity_threshold=2)
    net = nn.Sequential(first, nn.ReLU(), layer, last).cuda()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    train(net, optimizer, None, range(20))
    assert layer.group.state.replaced > 3


def test_redo_and_shrink_and_perturb_change_the_network():
    net = mlp(4, 32, 2).cuda()
    optimizer = torch.optim.Adam(net.parameters())
    redo = gnt.ReDo(net, optimizer, period=5, tau=0.5)
    shrink = gnt.ShrinkAndPerturb(net, shrink=0.99, noise=1e-3)
    before = net[0].weight.detach().clone()
    for t in range(12):
        x, y = (tensor.cuda() for tensor in batch(t))
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
        redo.step()
        shrink.step()
    assert not torch.equal(before, net[0].weight)
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_a_probe_leaves_network_and_generators_unchanged():
    net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2)).cuda()
    x, _ = batch(0)
    probe = Probe(net, net, x.cuda())
    random = torch.cuda.get_rng_state(), torch.get_rng_state()
    results = probe.measure()
    assert all(
        torch.equal(a, b) for a, b in zip(random, (torch.cuda.get_rng_state(), torch.get_rng_state()), strict=True)
    )
    assert results
