"""Networks that change after the kernels were given their addresses: an error or torch operations, never a crash."""

from __future__ import annotations

import contextlib
import copy
import re

import pytest
import torch

from gnt import GnT
from gnt._kernels import check_gradient
from gnt.optim import CBPSGD, UPGD, AdamGnT, CBPAdam
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


def two_groups(make, **options):
    net = mlp(4, 8, 20)
    groups = [{"params": net[0].parameters()}, {"params": net[2].parameters()}]
    optimizer = CBPSGD(net, 0.01, params=groups, **options) if make is CBPSGD else AdamGnT(groups, **options)
    net(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    return net, optimizer


GRADIENTS = {
    "a gradient of shape (1,) belongs to a parameter of shape (20, 8)": lambda grad: grad[0, :1],
    "a gradient of shape (1, 8) belongs to a parameter of shape (20, 8)": lambda grad: grad[:1],
    "a gradient of shape (3, 8) belongs to a parameter of shape (20, 8)": lambda grad: grad[:3],
    "a gradient of shape (20, 8) and torch.complex64 belongs to a parameter of the same shape and torch.float32": (
        lambda grad: grad.to(torch.complex64)
    ),
}


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize(
    ("make", "options"), [(AdamGnT, {}), (CBPSGD, {}), (CBPSGD, {"momentum": 0.9}), (CBPSGD, {"fused": True})]
)
@pytest.mark.parametrize("message", GRADIENTS)
def test_gradients_that_do_not_fit_are_refused_before_any_group_is_stepped(make, options, kernels, message):
    net, optimizer = two_groups(make, kernels=kernels, **options)
    weight, grad = net[2].weight, net[2].weight.grad
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    grad.data = GRADIENTS[message](grad.clone())
    with pytest.raises(RuntimeError, match=re.escape(message)):
        optimizer.step()
    assert_same((net.state_dict(), optimizer.state_dict()), before)
    weight.grad = torch.ones(20, 8)
    optimizer.step()


def test_gradients_on_another_device_are_refused():
    with pytest.raises(RuntimeError, match=r"shape \(2,\) on meta belongs to a parameter of the same shape on cpu"):
        check_gradient(torch.ones(2, device="meta"), torch.ones(2))


@pytest.mark.parametrize("options", [{"kernels": False}, {"kernels": True}, {"foreach": False}, {"fused": True}])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_of_another_dtype_are_converted(options, reset, dtype):
    runs = []
    for change in (lambda grad: grad.to(dtype), lambda grad: grad.to(dtype).float()):
        torch.manual_seed(0)
        net, optimizer = two_groups(AdamGnT, **options)
        if reset:
            optimizer.reset_units(net[2].weight, 0, [1])
        for _ in range(2):
            net[2].weight.grad.data = change(torch.randn(20, 8))
            optimizer.step()
        runs.append(net.state_dict())
    assert_same(*runs)


def test_a_fused_step_with_gradients_of_another_dtype_is_refused():
    net, optimizer = two_groups(CBPSGD, fused=True)
    before = copy.deepcopy(net.state_dict())
    net[2].weight.grad.data = net[2].weight.grad.double()
    with pytest.raises(RuntimeError, match=r"dtype of their parameter, torch.float32, got torch.float64 .*\(20, 8\)"):
        optimizer.step()
    assert_same(net.state_dict(), before)


@pytest.mark.parametrize("kernels", [False, True])
def test_a_parameter_made_smaller_under_its_gradient_is_refused_before_any_group_is_stepped(kernels):
    """Also after resets, when no addresses are looked up."""
    net, optimizer = two_groups(AdamGnT, kernels=kernels)
    optimizer.reset_units(net[2].weight, 0, [1])
    optimizer.step()
    net[2].weight.data = net[2].weight.data[:3]
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()["state"]))
    with pytest.raises(RuntimeError, match=r"shape \(20, 8\) belongs to a parameter of shape \(3, 8\)"):
        optimizer.step()
    assert_same((net.state_dict(), optimizer.state_dict()["state"]), before)


def move_weight(net, optimizer):
    net[2].weight.data = net[2].weight.data.clone()


def use_momentum(net, optimizer):
    optimizer.param_groups[0]["momentum"] = 0.9


def use_weight_decay(net, optimizer):
    optimizer.param_groups[0].update(weight_decay=0.1, lr=0.02)


def transpose_weight(net, optimizer):
    net[2].weight.data = net[2].weight.data.t().contiguous().t()


def freeze_bias(net, optimizer):
    net[2].bias.requires_grad_(False)
    net[2].bias.grad = None


CHANGES = [move_weight, use_momentum, use_weight_decay, transpose_weight, freeze_bias]


@pytest.mark.parametrize("change", CHANGES)
def test_sgd_by_the_kernel_equals_torch_after_a_change_between_steps(change):
    plain, own = mlp(), mlp()
    runs = [
        (plain, torch.optim.SGD(plain.parameters(), lr=0.01)),
        (own, CBPSGD(own, lr=0.01, kernels=True, replacement_rate=0.0)),
    ]
    for t in range(8):
        for net, optimizer in runs:
            if t == 4:
                change(net, optimizer)
            train(net, optimizer, None, range(t, t + 1))
    assert_same(runs[0][0].state_dict(), runs[1][0].state_dict())


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize(("size", "grad_size", "message"), [
    (40, 40, "the parameter has shape (40,), but its state 'avg_utility' has shape (20,)"),
    (10, 10, "the parameter has shape (10,), but its state 'avg_utility' has shape (20,)"),
    (10, 20, "a gradient of shape (20,) belongs to a parameter of shape (10,)"),
])  # fmt: skip
def test_upgd_refuses_a_parameter_of_another_size_before_anything_changes(kernels, size, grad_size, message):
    first, second = (torch.nn.Parameter(torch.randn(20)) for _ in range(2))
    optimizer = UPGD([first, second], kernels=kernels)
    first.grad, second.grad = torch.ones(20), torch.ones(20)
    optimizer.step()
    if grad_size == size:
        second.grad = None
    second.data = torch.randn(size)
    if grad_size == size:
        second.grad = torch.ones(size)
    before = copy.deepcopy((first, second, optimizer.state_dict()))
    with pytest.raises(RuntimeError, match=re.escape(message)):
        optimizer.step()
    assert_same((first, second, optimizer.state_dict()), before)
