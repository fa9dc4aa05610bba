"""Networks that change after the kernels were given their addresses: an error or torch operations, never a crash."""

from __future__ import annotations

import contextlib
import copy
import re

import pytest
import torch

from gnt import GnT
from gnt.optim import CBPSGD, AdamGnT, CBPAdam
from tests.helpers.small_runs import assert_same, mlp, train


@pytest.mark.parametrize("make", [CBPSGD, CBPAdam])
@pytest.mark.parametrize("size", [1, 40])
def test_a_consumer_of_another_size_is_refused(make, size):
    """Smaller under the same address, and larger."""
    net = mlp(4, 8, 20)
    optimizer = make(net, 0.01, kernels=True, maturity_threshold=1, replacement_rate=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    head = net[2]
    for param in head.parameters():
        param.grad = None
        param.data = param.data[:size] if size < 20 else torch.cat([param.data, param.data])
    net(torch.randn(8, 4)).square().mean().backward()
    with pytest.raises(RuntimeError, match=r"shape"):
        optimizer.step()


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("flags", [{}, {"foreach": True}])
@pytest.mark.parametrize("shape", [(3, 8), (1,), (20, 8, 1), (8, 20), (40, 8)])
def test_gradients_of_another_shape_are_refused_before_anything_changes(kernels, steps, reset, flags, shape):
    net = mlp(4, 8, 20)
    optimizer = AdamGnT([{"params": net[0].parameters()}, {"params": net[2].parameters()}], kernels=kernels, **flags)
    net(torch.randn(8, 4)).square().mean().backward()
    for _ in range(steps):
        optimizer.step()
    if reset and steps:
        optimizer.reset_units(net[2].weight, 0, [1])
        optimizer.step()
    grad = net[2].weight.grad.data
    net[2].weight.grad.data = torch.ones(shape)
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    message = f"a gradient of shape {shape} belongs to a parameter of shape (20, 8)"
    with pytest.raises(RuntimeError, match=re.escape(message)):
        optimizer.step()
    assert_same((net.state_dict(), optimizer.state_dict()), before)
    net[2].weight.grad.data = grad
    optimizer.step()


def test_an_engine_with_kernels_on_a_network_that_was_moved_raises_an_error_or_steps():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = GnT(net, optimizer, kernels=True)
    train(net, optimizer, engine, range(2))
    net.to("meta")
    net(torch.randn(8, 4, device="meta"))
    with contextlib.suppress(RuntimeError, NotImplementedError, ValueError):
        engine.step()
