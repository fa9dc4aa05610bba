"""AdamGnT(kernels=True): changes that must be detected before the kernel uses the addresses of the previous step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gnt.optim import AdamGnT
from tests.optim.adam_runs import step
from tests.optim.kernel_runs import assert_close, num_kernel_steps, pair


def test_gradients_may_have_another_layout():
    ours, plain = pair((6, 4), (4, 3, 5, 5))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        grads = [torch.randn(4, 6, generator=generator).t(), torch.randn(4, 3, 5, 5, generator=generator)]
        grads[1] = grads[1].to(memory_format=torch.channels_last)
        for params, optimizer in (ours, plain):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            optimizer.step()
        assert_close(ours, plain)


@pytest.mark.parametrize(
    "change",
    [
        lambda param: param.data.double(),
        lambda param: param.data.clone(),
        lambda param: param.data.to(torch.bfloat16),
        lambda param: param.data.repeat_interleave(2, 1)[:, ::2],
        lambda param: param.data.t().contiguous().t(),
    ],
    ids=["float64", "new memory", "bfloat16", "strided", "transposed"],
)
def test_parameters_may_move(change):
    """``net.double()`` and the like give a parameter new memory: the kernel must not write to the old memory."""
    ours, plain = pair((6, 4), (6,))
    for params, optimizer in (ours, plain):
        step(optimizer, torch.Generator().manual_seed(0))
        optimizer.reset_units(params[0], 0, [1])
        step(optimizer, torch.Generator().manual_seed(1))
        params[0].grad = None
        params[0].data = change(params[0])
        for key in ("exp_avg", "exp_avg_sq"):
            state = optimizer.state[params[0]]
            state[key] = state[key].to(params[0].dtype)
        params[0].grad = torch.full_like(params[0], 0.5)
        optimizer.step()
    torch.testing.assert_close(ours[0][0], plain[0][0], rtol=1e-6, atol=1e-6)
    assert num_kernel_steps(ours[1]) == [2 if plain[0][0].dtype != torch.bfloat16 and ours[0][0].is_contiguous() else 1]


def replace_count(optimizer, param):
    optimizer.state[param]["step"] = torch.tensor(100.0)


def replace_moment(optimizer, param):
    optimizer.state[param]["exp_avg"] = torch.full((6, 4), 3.0)


def move_moment(optimizer, param):
    optimizer.state[param]["exp_avg_sq"].data = torch.full((6, 4), 2.0)


def replace_state(optimizer, param):
    optimizer.state[param] = {**optimizer.state[param], "step": torch.tensor(50.0)}


def delete_state(optimizer, param):
    del optimizer.state[param]


@pytest.mark.parametrize("change", [replace_count, replace_moment, move_moment, replace_state, delete_state])
def test_state_may_be_replaced(change):
    ours, plain = pair((6, 4), (6,))
    for params, optimizer in (ours, plain):
        step(optimizer, torch.Generator().manual_seed(0))
        change(optimizer, params[0])
        if optimizer is plain[1]:
            optimizer._plans.clear()  # so that the expected result depends on no cache
        step(optimizer, torch.Generator().manual_seed(1))
    assert_close(ours, plain)


def test_parameters_with_gradients_may_change():
    ours, plain = pair((6, 4), (6,), (3, 2))
    for params, optimizer in (ours, plain):
        params[1].requires_grad_(False)
        for t in range(6):
            for i, param in enumerate(params):
                param.grad = None if (i + t) % 3 == 0 else torch.full_like(param, 0.1 * (t - 2))
            optimizer.step()
            optimizer.reset_units(params[t % 3], 0, [t % 3])
        optimizer.add_param_group({"params": [extra := nn.Parameter(torch.ones(3))], "lr": 0.1, "amsgrad": True})
        step(optimizer, torch.Generator().manual_seed(0))
        optimizer.param_groups[0]["lr"] = 0.2
        optimizer.param_groups[0]["betas"] = (0.5, 0.6)
        optimizer.param_groups[0]["params"].pop(0)
        step(optimizer, torch.Generator().manual_seed(1))
        params.append(extra)
    assert num_kernel_steps(ours[1]) == [2, 1]
    torch.testing.assert_close(ours[0], plain[0], rtol=1e-5, atol=1e-6)


def test_unsupported_parameters_are_stepped_without_the_kernel():
    shapes = [(4, 3), (2, 2, 3, 3)]
    for kind in (torch.bfloat16, torch.float16, "channels_last"):
        (params, optimizer), (others, plain) = pair(*shapes)
        for each in (params, others):
            for param in each:
                param.data = param.data.to(kind) if isinstance(kind, torch.dtype) else param.data
            if kind == "channels_last":
                each[1].data = each[1].data.to(memory_format=torch.channels_last)
        plain.param_groups[0]["foreach"] = None
        for seed in range(3):
            for each, its_params in ((optimizer, params), (plain, others)):
                step(each, torch.Generator().manual_seed(seed))
                each.reset_units(its_params[0], 0, [1])
        assert num_kernel_steps(optimizer) == [1 if kind == "channels_last" else 0]
        torch.testing.assert_close(params, others, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernels", [None, False])
def test_each_tensor_of_the_state_may_be_replaced(kernels):
    moved = []
    for kind, own in ((AdamGnT, {"kernels": kernels}), (torch.optim.Adam, {})):
        param = nn.Parameter(torch.ones(3))
        optimizer = kind([param], lr=0.01, amsgrad=True, **own)
        for replace in (False, True):
            param.grad = torch.tensor([1.0, 2.0, 3.0])
            if replace:
                optimizer.state[param]["max_exp_avg_sq"] = torch.full((3,), 100.0)
            before = param.detach().clone()
            optimizer.step()
        moved.append(before - param.detach())
    torch.testing.assert_close(*moved, rtol=1e-3, atol=1e-8)
