"""`Probe` leaves the model, its engines and a training make_run unchanged, in any mode of the caller."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gnt.metrics import Probe
from tests.helpers.small_runs import assert_same, batch, full_state, make_run, mlp
from tests.metrics.probe_cases import TwoInputs, inputs, noisy_net


@pytest.mark.parametrize("attached", [True, False])
def test_training_with_a_probe_equals_training_without(attached):
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
                assert len(probe.step()) == 2 * 6 + 4  # two groups; weights, loss, gradient, update
                assert not engine.waiting
        grads = [p.grad for p in net.parameters()]
        hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in net.modules()]
        runs.append(
            (full_state(net, optimizer, engine), grads, hooks, net[0].seen, [m.training for m in net.modules()])
        )
        assert sum(g.state.replaced for g in engine.groups)
    assert_same(list(runs[1]), list(runs[0]))


def test_modes_and_attributes_of_each_module_are_restored():
    net = noisy_net()
    net[2].eval()
    net[4].eval()
    modes = [module.training for module in net.modules()]
    probe = Probe(net, net, inputs())
    values = probe.measure()
    assert [module.training for module in net.modules()] == modes
    assert "last" not in vars(net[0])
    assert net[0].seen == []
    assert float(net[0].calls) == 0
    assert probe.measure() == values == Probe(net.eval(), net, inputs()).measure()


def test_nothing_is_changed_after_an_error():
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


@pytest.mark.parametrize("created_in", [False, True])
@pytest.mark.parametrize("measured_in", [False, True])
def test_inference_mode_does_not_change_values(created_in: bool, measured_in: bool) -> None:
    some = mlp(4, 8, 3)
    with torch.inference_mode(created_in):
        x, y = torch.linspace(-1, 1, 48).view(12, 4), torch.arange(12) % 3
        probe = Probe(some, some, x, y=y, gradient=True, update=True)
    with torch.inference_mode(measured_in):
        values = probe.measure()
    x, y = torch.linspace(-1, 1, 48).view(12, 4), torch.arange(12) % 3
    assert values == Probe(some, some, x, y=y, gradient=True, update=True).measure()
    F.cross_entropy(some(x), y).backward()  # no tensor of the model became an inference tensor
    with torch.no_grad():
        some[0].weight.add_(1.0)
    assert probe.measure()["update_size"] == pytest.approx(32**0.5)


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_compiled_model_is_measured_uncompiled(how):
    torch.manual_seed(0)
    net = TwoInputs()
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
    assert len(compiled) == graphs  # neither the probe nor the model compiled again


def test_generators_of_numpy_and_python_are_restored():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.second(torch.relu(self.first(x * random.random() * np.random.rand())))

    net = Noisy()
    before = random.getstate(), np.random.get_state()[2]
    Probe(net, [net.first, nn.ReLU(), net.second], torch.randn(6, 4)).measure()
    assert (random.getstate(), np.random.get_state()[2]) == before
