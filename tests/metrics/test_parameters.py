"""Weight magnitude, gradient norm and update size: values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gnt.metrics import UpdateSize, gradient_norm, update_size, weight_magnitude
from tests.twins import metrics as twin


def test_metrics_of_a_network_agree_with_numpy():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, dtype=torch.bfloat16))
    arrays = [p.detach().double().numpy() for p in net.parameters()]
    assert weight_magnitude(net) == pytest.approx(twin.weight_magnitude(arrays))
    assert weight_magnitude(net.parameters()) == weight_magnitude(net)
    assert weight_magnitude(net[0].weight) == pytest.approx(twin.weight_magnitude(arrays[:1]))
    for p in list(net.parameters())[:3]:
        p.grad = torch.randn_like(p)
    grads = [p.grad.double().numpy() for p in net.parameters() if p.grad is not None]
    assert gradient_norm(net) == pytest.approx(twin.norm(grads))
    change = UpdateSize(net)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p))
    after = [p.detach().double().numpy() for p in net.parameters()]
    assert change.measure() == pytest.approx(twin.update_size(arrays, after))
    assert change.measure() == 0.0


def test_a_tied_weight_counts_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    expected = [p.detach().numpy() for p in (net[0].weight, net[0].bias, net[1].bias)]
    assert weight_magnitude(net) == pytest.approx(twin.weight_magnitude(expected))


def test_an_sgd_update_has_the_size_of_lr_times_the_gradient_norm():
    torch.manual_seed(0)
    net = nn.Linear(5, 3, dtype=torch.float64)
    change = UpdateSize(net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125)
    net(torch.randn(7, 5, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    assert change.measure() == pytest.approx(0.125 * gradient_norm(net), rel=1e-12)


def test_norms_do_not_overflow():
    w = torch.full((4,), 1e30)
    assert weight_magnitude(w) == pytest.approx(1e30)
    assert update_size(-w, w) == pytest.approx(4e30)


def test_sparse_gradients_are_included():
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 1])).sum().backward()
    assert gradient_norm(table) == pytest.approx(math.sqrt(8))


def test_update_size_resumes_from_a_saved_snapshot():
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    change = UpdateSize(net)
    saved = change.state_dict()
    with torch.no_grad():
        net.weight += 1.0
    later = UpdateSize(net)
    later.load_state_dict(saved)
    assert later.measure() == change.measure() == pytest.approx(2.0)
    for wrong, message in (
        ({}, "no list of tensors 'snapshot'"),
        ({"snapshot": [torch.ones(2, 2)]}, "same parameters, got 1 and 2 tensors"),
        ({"snapshot": [torch.ones(2, 3), torch.ones(2)]}, r"got \(2, 3\) and \(2, 2\) for tensor 0"),
    ):
        with pytest.raises(ValueError, match=message):
            later.load_state_dict(wrong)
    assert later.measure() == 0.0
    assert UpdateSize(other).measure() == 0.0
