"""The Triton kernels of AdamGnT's step against the same step by torch operations."""

from __future__ import annotations

import copy

import pytest
import torch

from gnt.optim import AdamGnT

SHAPES = [(33, 50), (5,), (4, 3, 2, 2), (), (1, 1, 1, 6), (40, 30)]
OPTIONS = [
    {},
    {"amsgrad": True, "maximize": True},
    {"weight_decay": 0.1, "betas": (0.0, 0.9)},
    {"weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3, "betas": (0.3, 0.999)},
]


def parameters(dtype, device):
    source = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=source).to(device, dtype)) for shape in SHAPES]


def train(params, optimizer, steps):
    """Steps with resets of rows, of columns, of both, of elements, and of the channels of a grouped convolution."""
    resets = [(0, 0, [0, 3]), (0, 1, [7]), (1, 0, [2]), (2, 1, [4, 1]), (4, 3, [5]), (0, 0, [3])]
    for t in steps:
        source = torch.Generator().manual_seed(t)
        for param in params:
            param.grad = torch.randn(param.shape, generator=source).to(param)
        optimizer.step()
        which, dim, units = resets[t // 2 % len(resets)]
        # with capturable, channels of a grouped convolution cannot be reset
        if t % 2 == 1 and not (which == 2 and optimizer.capturable):
            index = torch.tensor(units, device=params[0].device)
            optimizer.reset_units(params[which], dim, index, groups=2 if which == 2 else 1)


def uses_triton(optimizer):
    return [
        type(stepper).__name__ == "TritonStep" for plan in optimizer._plans.values() for stepper, _ in plan._steppers
    ]


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_after_resets_equal_those_of_torch_operations(options, capturable, device):
    runs = []
    for kernels in (None, False):
        params = parameters(torch.float64, device)
        optimizer = AdamGnT(params, lr=0.05, kernels=kernels, capturable=capturable, **options)
        train(params, optimizer, range(13))
        runs.append((params, optimizer))
    assert any(uses_triton(runs[0][1]))
    assert not any(uses_triton(runs[1][1]))
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        ours, theirs = runs[0][1].state[a], runs[1][1].state[b]
        for key in ("step", "exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(ours[key].cpu(), theirs[key].cpu(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 5e-3)], ids=str
)
def test_other_dtypes_are_equal_up_to_rounding(dtype, tolerance, device):
    params, exact = parameters(dtype, device), parameters(dtype, device)
    exact = [torch.nn.Parameter(param.detach().double()) for param in exact]
    ours, theirs = AdamGnT(params, lr=0.05, kernels=None), AdamGnT(exact, lr=0.05)
    for optimizer, each in ((ours, params), (theirs, exact)):
        train(each, optimizer, range(8))
    assert any(uses_triton(ours))
    for a, b in zip(params, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


def test_a_changed_learning_rate_and_a_tensor_as_learning_rate_take_effect(device):
    runs = []
    for kernels in (None, False):
        params = parameters(torch.float64, device)
        lr = torch.tensor(0.05, dtype=torch.float64, device=device)
        optimizer = AdamGnT(params, lr=lr, kernels=kernels)
        train(params, optimizer, range(4))
        lr.mul_(0.5)
        train(params, optimizer, range(4, 8))
        optimizer.param_groups[0]["lr"] = 0.01
        train(params, optimizer, range(8, 12))
        runs.append(params)
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_loaded_state_continues_bit_for_bit(capturable, device):
    params = parameters(torch.float32, device)[:2]
    optimizer = AdamGnT(params, lr=0.05, kernels=None, capturable=capturable)
    steps = [(t, t % 3 == 1) for t in range(10)]

    def run(params, optimizer, steps):
        for t, reset in steps:
            source = torch.Generator().manual_seed(t)
            for param in params:
                param.grad = torch.randn(param.shape, generator=source).to(device)
            optimizer.step()
            if reset:
                optimizer.reset_units(params[0], 0, torch.tensor([t], device=device))
                optimizer.reset_units(params[1], 0, torch.tensor([t % 5], device=device))

    run(params, optimizer, steps[:6])
    others = copy.deepcopy(params)
    loaded = AdamGnT(others, lr=0.05, kernels=None, capturable=capturable)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, opt in ((params, optimizer), (others, loaded)):
        run(each, opt, steps[6:])
    assert any(uses_triton(loaded))
    for a, b in zip(params, others, strict=True):
        assert torch.equal(a, b)


def test_gradients_of_another_memory_layout_are_read_as_they_are(device):
    runs = []
    for kernels in (None, False):
        param = torch.nn.Parameter(torch.ones(20, 30, dtype=torch.float64, device=device))
        optimizer = AdamGnT([param], lr=0.05, kernels=kernels)
        for t in range(4):
            grad = torch.randn(30, 20, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
            param.grad = grad.to(device).t()
            optimizer.step()
            optimizer.reset_units(param, 1, torch.tensor([t], device=device))
        runs.append(param)
    torch.testing.assert_close(*runs, rtol=1e-9, atol=1e-12)
