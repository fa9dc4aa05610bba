"""Networks that change after the kernels were given their addresses: an error or torch operations, never a crash."""

from __future__ import annotations

import contextlib

import pytest
import torch

from gnt import GnT
from gnt.optim import CBPSGD, AdamGnT, CBPAdam
from tests.helpers.small_runs import mlp, train


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


def test_kernels_refuse_gradients_of_another_shape():
    net = mlp(4, 8, 20)
    optimizer = AdamGnT(net.parameters(), kernels=True)
    net(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    net[2].weight.grad.data = net[2].weight.grad.data[:3].clone()
    before = net[2].weight.detach().clone()
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert torch.equal(net[2].weight, before)


def test_an_engine_with_kernels_on_a_network_that_was_moved_raises_an_error_or_steps():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = GnT(net, optimizer, kernels=True)
    train(net, optimizer, engine, range(2))
    net.to("meta")
    net(torch.randn(8, 4, device="meta"))
    with contextlib.suppress(RuntimeError, NotImplementedError, ValueError):
        engine.step()
