"""AdamGnT without kernels: subnormal moments become zero, and neither this nor avoided roots of zero changes a step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gnt.optim import AdamGnT
from gnt.optim._adam import per_unit_step, tiny_moments
from tests.optim.adam_runs import step

SHAPES = [(40, 120), (300,), (4, 3, 3, 3)]


def silent_run(dtype, *, steps=60, **options):
    """Parameters whose moments are close to subnormal and whose gradients are zero in all rows but the last."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
    optimizer = AdamGnT(params, betas=(0.6, 0.6), kernels=False, **options)
    step(optimizer, generator)
    for param in params:
        optimizer.reset_units(param, 0, [1])
        param.grad[:-1] = 0
        for key in ("exp_avg", "exp_avg_sq"):
            optimizer.state[param][key].mul_(torch.finfo(dtype).tiny * 2**20)
    optimizer.reset_units(params[0], 1, [2])
    for _ in range(steps):
        optimizer.step()
    return params, optimizer


def subnormal(optimizer, params):
    """The number of subnormal moments."""
    moments = [v for param in params for key, v in optimizer.state[param].items() if key.endswith(("avg", "sq"))]
    return sum(int(((m != 0) & (m.abs() < torch.finfo(m.dtype).tiny)).sum()) for m in moments)


@pytest.mark.parametrize(
    ("dtype", "options", "block"),
    [
        (torch.float32, {}, 1 << 12),
        (torch.float32, {"amsgrad": True}, 1 << 19),
        (torch.bfloat16, {"decoupled_weight_decay": True, "weight_decay": 0.1}, 1 << 19),
        (torch.float64, {"maximize": True}, 1 << 19),
    ],
)
def test_no_subnormal_moment_stays_and_no_parameter_changes(monkeypatch, dtype, options, block):
    monkeypatch.setattr(per_unit_step, "BLOCK_SIZE", block)
    params, optimizer = silent_run(dtype, **options)
    assert subnormal(optimizer, params) == 0
    monkeypatch.setattr(per_unit_step, "flush_subnormal", lambda *_: None)
    monkeypatch.setattr(tiny_moments, "_MIN_EPS_OF_ROOTS", 1.0)
    plain_params, plain = silent_run(dtype, **options)
    assert subnormal(plain, plain_params) > 100
    for ours, theirs in zip(params, plain_params, strict=True):
        assert torch.equal(ours, theirs)
        for key in ("exp_avg", "exp_avg_sq"):
            kept, full = optimizer.state[ours][key], plain.state[theirs][key]
            assert torch.equal(kept, torch.where(full.abs() < torch.finfo(dtype).tiny, 0, full))


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, 1e-11), (torch.float16, 1e-8)])
def test_moments_that_could_matter_are_kept(dtype, eps):
    tiny = torch.finfo(dtype).tiny
    param = nn.Parameter(torch.ones(4, 3, dtype=dtype))
    optimizer = AdamGnT([param], eps=eps, betas=(0.9, 0.999))
    step(optimizer, torch.Generator().manual_seed(0))
    optimizer.reset_units(param, 0, [1])
    for key in ("exp_avg", "exp_avg_sq"):
        optimizer.state[param][key].fill_(tiny / 4)
    param.grad.zero_()
    for _ in range(2 * tiny_moments.FLUSH_INTERVAL):
        optimizer.step()
    assert all(bool((optimizer.state[param][key] > 0).all()) for key in ("exp_avg", "exp_avg_sq"))


def test_the_smallest_normal_numbers_signs_and_nan_are_kept_as_by_the_kernel():
    tiny = torch.finfo(torch.float32).tiny
    values = torch.tensor([tiny, -tiny, tiny * 0.99, -tiny * 0.99, 1e-45, float("nan"), -1.0, 0.0])
    expected = torch.tensor([tiny, -tiny, 0.0, 0.0, 0.0, float("nan"), -1.0, 0.0])
    for moment in (values.repeat(5), values.repeat(6, 2).t()):
        flushed = moment.clone()
        tiny_moments.flush_subnormal([flushed], 1e-10)
        torch.testing.assert_close(
            flushed,
            expected.repeat(5) if moment.dim() == 1 else expected.repeat(6, 2).t(),
            rtol=0,
            atol=0,
            equal_nan=True,
        )


def test_a_copy_made_between_two_flushes_continues_bit_for_bit():
    params, optimizer = silent_run(torch.float32, steps=21)
    copies, twin = copy.deepcopy((params, optimizer))
    for ours, theirs in zip(params, copies, strict=True):
        theirs.grad = ours.grad.clone()
    for _ in range(21):
        optimizer.step()
        twin.step()
    for ours, theirs in zip(params, copies, strict=True):
        assert torch.equal(ours, theirs)
        assert all(torch.equal(v, twin.state[theirs][key]) for key, v in optimizer.state[ours].items())
