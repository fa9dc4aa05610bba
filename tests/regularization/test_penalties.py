"""`L2` and `L2Init`: values and gradients agree with the formulas, dtypes, freezing, saved states."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gnt
from tests.regularization.networks import float64_net, net
from tests.twins import regularization as twin
from tests.twins.networks import NETWORKS, Builder, mlp2


def compute_gradients(
    net: nn.Module, shape: tuple[int, ...], seed: int, reg: gnt.L2Init | gnt.L2 | None = None
) -> None:
    """Store the gradients of one batch in ``.grad``."""
    x = torch.randn(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    net.zero_grad()
    loss = net(x).square().mean()
    (loss if reg is None else loss + reg()).backward()


@pytest.mark.parametrize("kind", [gnt.L2, gnt.L2Init])
@pytest.mark.parametrize("build", NETWORKS)
def test_penalty_and_gradient_agree_with_the_formula_during_training(build: Builder, kind: type[gnt.L2]) -> None:
    net, strength = float64_net(build), 0.03
    reg = kind(net, strength)
    start = twin.arrays(net)
    targets = start if kind is gnt.L2Init else [0 * theta for theta in start]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for t in range(5):
        thetas = twin.arrays(net)
        expected = twin.penalty(thetas, targets, strength)
        assert reg().item() == pytest.approx(expected, rel=1e-12, abs=0)
        plain = copy.deepcopy(net)
        compute_gradients(plain, NETWORKS[build], t)
        compute_gradients(net, NETWORKS[build], t, reg)
        for p, q, theta, target in zip(net.parameters(), plain.parameters(), thetas, targets, strict=True):
            assert p.grad is not None
            assert q.grad is not None
            expected_gradient = q.grad.numpy() + twin.penalty_gradient(theta, target, strength)
            np.testing.assert_allclose(p.grad.numpy(), expected_gradient, rtol=1e-12, atol=1e-15)
        summed = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        compute_gradients(net, NETWORKS[build], t)
        reg.backward()
        for p, expected_sum in zip(net.parameters(), summed, strict=True):
            torch.testing.assert_close(p.grad, expected_sum, rtol=1e-12, atol=1e-15)
        optimizer.step()


@pytest.mark.parametrize("kind", [gnt.L2, gnt.L2Init])
def test_first_and_second_gradients_agree_with_finite_differences(kind: type[gnt.L2]) -> None:
    net = float64_net(mlp2)
    reg = kind(net, 0.7)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(2)))
    parameters = tuple(net.parameters())

    def value(*_: torch.Tensor) -> torch.Tensor:
        return reg()

    assert torch.autograd.gradcheck(value, parameters)
    assert torch.autograd.gradgradcheck(value, parameters)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_l2_equals_weight_decay_of_twice_the_strength(make: type[torch.optim.Optimizer]) -> None:
    net = float64_net(mlp2)
    decayed = copy.deepcopy(net)
    reg = gnt.L2(net, 0.05)
    optimizer = make(net.parameters(), lr=0.01)  # type: ignore[call-arg]
    by_decay = make(decayed.parameters(), lr=0.01, weight_decay=0.1)  # type: ignore[call-arg]
    for t in range(20):
        compute_gradients(net, (5,), t, reg)
        compute_gradients(decayed, (5,), t)
        optimizer.step()
        by_decay.step()
    for p, q in zip(net.parameters(), decayed.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_l2_init_is_measured_from_the_initial_values() -> None:
    some = net()
    reg = gnt.L2Init(some, 0.5)
    assert reg().item() == 0.0
    reg().backward()
    assert all(p.grad is not None and not p.grad.any() for p in some.parameters())
    with torch.no_grad():
        some[2].bias.add_(2.0)
    assert reg().item() == pytest.approx(0.5 * 2 * 4.0)
    reg.strength = 0.25
    assert reg.penalty().item() == pytest.approx(0.25 * 2 * 4.0)


def test_gradients_are_accumulated_by_backward_only() -> None:
    some = net()
    reg = gnt.L2(some, 0.5)
    for p in some.parameters():
        p.grad = torch.ones_like(p)
    value = reg()
    assert all(p.grad is not None and torch.equal(p.grad, torch.ones_like(p)) for p in some.parameters())
    value.backward()
    assert all(torch.equal(p.grad, 1.0 + p.detach()) for p in some.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", [gnt.L2, gnt.L2Init])
@pytest.mark.parametrize("direct", [True, False])
def test_parameters_frozen_later_get_no_gradient(kind: type[gnt.L2], direct: bool) -> None:
    some = net()
    reg = kind(some, 0.5)
    some[0].requires_grad_(False)
    with torch.no_grad():
        some[2].bias.fill_(3.0)
    reg.backward() if direct else reg.penalty().backward()
    # with any gradient, even 0, an optimizer with weight decay or momentum would change them
    assert all(p.grad is None for p in some[0].parameters())
    assert all(p.grad is not None for p in some[2].parameters())


def test_backward_with_all_parameters_frozen_does_nothing() -> None:
    some = net()
    reg = gnt.L2(some, 0.5)
    some.requires_grad_(False)
    reg.backward()
    assert all(p.grad is None for p in some.parameters())


def test_sparse_gradients_are_accumulated() -> None:
    def gradients(direct: bool) -> list[torch.Tensor | None]:
        torch.manual_seed(0)
        some = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 1))
        reg = gnt.L2(some, 0.5)
        some(torch.tensor([1, 1, 4])).square().sum().backward()
        assert some[0].weight.grad.is_sparse
        reg.backward() if direct else reg.penalty().backward()
        return [p.grad for p in some.parameters()]

    torch.testing.assert_close(gradients(True), gradients(False))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_parameters_are_summed_in_float32(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.full((1000, 100), 2.0, dtype=dtype))
    value = gnt.L2([p], 1.0)()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(400_000.0, rel=1e-5)
    value.backward()
    assert p.grad is not None
    assert p.grad.dtype == dtype
    assert torch.equal(p.grad, torch.full_like(p, 4.0))


def test_initial_values_follow_the_dtype_of_the_network() -> None:
    some = net()
    reg = gnt.L2Init(some, 1.0)
    some.double()
    assert reg().dtype == torch.float64
    assert reg().item() == 0.0


def test_the_compiled_penalty_equals_the_eager_one() -> None:
    some = net()
    reg = gnt.L2Init(some, 0.3)
    x = torch.ones(3, 4)
    with torch.no_grad():
        some[0].weight.mul_(2.0)

    def loss() -> torch.Tensor:
        return some(x).square().mean() + reg()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(), loss())
    expected = torch.autograd.grad(loss(), list(some.parameters()))
    for mine, theirs in zip(torch.autograd.grad(compiled(), list(some.parameters())), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_l2_init_resumes_from_saved_initial_values(tmp_path: Any) -> None:
    some = net()
    reg = gnt.L2Init(some, 0.5)
    gnt.ShrinkAndPerturb(some, shrink=0.3, noise=0.1).step()
    torch.save([some.state_dict(), reg.state_dict()], tmp_path / "state")
    weights, start = torch.load(tmp_path / "state", weights_only=True)
    other = net(1)
    other.load_state_dict(weights)
    resumed = gnt.L2Init(other, 0.5)
    assert resumed().item() == 0.0
    resumed.load_state_dict(start)
    assert torch.equal(resumed(), reg())
    start["start"][0].zero_()  # the saved tensors were copied
    assert torch.equal(resumed(), reg())
