"""AdamGnT(kernels=True): the C kernel compared with torch operations."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from gnt._kernels import library
from gnt.optim import AdamGnT
from gnt.optim._adam.bias_correction import _table
from tests.helpers.small_runs import assert_same
from tests.optim.adam_runs import step, stepped
from tests.optim.kernel_runs import assert_close, num_kernel_steps, pair


def copy_state(ours, plain):
    """Copy parameters and state from ``plain`` to ``ours``, so that rounding differences do not accumulate."""
    for param, other in zip(ours[0], plain[0], strict=True):
        param.data.copy_(other.data)
        for key, value in plain[1].state[other].items():
            ours[1].state[param][key].copy_(value)


OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled_weight_decay": True},
    {"amsgrad": True, "maximize": True},
    {"betas": (0.3, 0.9), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True},
    {"betas": (0.0, 0.0), "eps": 0.0},
    {"lr": torch.tensor([0.01], dtype=torch.float64)},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_kernel_agrees_with_torch_operations(dtype, options):
    """Sizes above and below those of a vector, a block and a parallel loop; all kinds of parameters; with resets."""
    ours, plain = pair((300, 131), (77,), (1,), (6, 2, 3, 3), (8, 4, 3), (1, 5), (0,), (), dtype=dtype, **options)
    generator = torch.Generator().manual_seed(1)
    for t in range(12):
        for param, other in zip(ours[0], plain[0], strict=True):
            param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(dtype) * 10.0 ** (t % 3)
            other.grad = param.grad.clone()
        ours[1].step()
        plain[1].step()
        assert_close(ours, plain, dtype)
        copy_state(ours, plain)
        for params, optimizer in (ours, plain):
            if t in (1, 3, 8):
                optimizer.reset_units(params[0], 0, [t, 299])
                optimizer.reset_units(params[0], 1, [130 - t])
                optimizer.reset_units(params[3], 1, [t % 6], groups=3)
                optimizer.reset_units(params[5], 1, [4, t % 5])
            if t in (2, 6):
                optimizer.reset_units(params[1], 0, [3 * t, 76])
                optimizer.reset_units(params[2], 0, [0])
                optimizer.reset_units(params[3], 0, [5])
                optimizer.reset_units(params[4], 0, [t])
    assert num_kernel_steps(ours[1]) == [8]


@pytest.mark.parametrize("counts", [(1, 2**15 + 1), (2**17 + 5, 2**17 + 3), (2**24 + 2, 2**24)])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.99, 0.99999)])
def test_step_counts_beyond_the_tables(betas, counts):
    ours, plain = pair((4, 3), (5,), dtype=torch.float64, betas=betas)
    generator = torch.Generator().manual_seed(1)
    for params, optimizer in (ours, plain):
        step(optimizer, torch.Generator().manual_seed(0))
        optimizer.reset_units(params[0], 0, [1])
        saved = copy.deepcopy(optimizer.state_dict())
        for which, count in enumerate(counts):
            saved["state"][which]["step"].fill_(count)
        optimizer.load_state_dict(saved)
    for _ in range(3):
        state = generator.get_state()
        for _, optimizer in (ours, plain):
            generator.set_state(state)
            step(optimizer, generator)
    for param, other in zip(ours[0], plain[0], strict=True):
        torch.testing.assert_close(param, other, rtol=1e-12, atol=1e-15)


def test_several_threads_step_one_parameter():
    ours, plain = pair((517, 300), (40_001,))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for seed in range(4):
            for params, optimizer in (ours, plain):
                step(optimizer, torch.Generator().manual_seed(seed))
                optimizer.reset_units(params[0], 0, [seed, 516])
                optimizer.reset_units(params[0], 1, [seed])
            assert_close(ours, plain)
            copy_state(ours, plain)
    finally:
        torch.set_num_threads(threads)


def test_subnormal_moments_become_zero():
    """Unless eps is so small that they could matter."""
    for eps, tiny in ((1e-8, 0.0), (0.0, 1e-39)):
        param = nn.Parameter(torch.ones(40))
        optimizer = AdamGnT([param], eps=eps, betas=(0.5, 0.5), kernels=True)
        step(optimizer, torch.Generator().manual_seed(0))
        optimizer.state[param]["exp_avg"].fill_(2e-39)
        optimizer.state[param]["exp_avg_sq"].fill_(2e-39)
        param.grad = torch.zeros(40)
        optimizer.step()
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizer.state[param][key], torch.full((40,), tiny), rtol=1e-6, atol=0)


def test_a_backward_through_stepped_parameters_is_refused():
    param = nn.Parameter(torch.ones(3))
    optimizer = AdamGnT([param], kernels=True)
    loss = (param * param).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_use_the_kernel_and_continue_bit_for_bit(copied):
    (params, optimizer), _ = pair((6, 4), (6,), amsgrad=True)
    step(optimizer, torch.Generator().manual_seed(0))
    optimizer.reset_units(params[0], 0, [1])
    step(optimizer, torch.Generator().manual_seed(1))
    copies, twin = copied((params, optimizer))
    assert twin.kernels
    loaded = AdamGnT(copy.deepcopy(params), kernels=True)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert loaded.kernels
    for each in (optimizer, twin, loaded):
        step(each, torch.Generator().manual_seed(2))
        assert num_kernel_steps(each) == [2]
    assert_same(twin.state_dict(), optimizer.state_dict())
    assert_same(loaded.state_dict(), optimizer.state_dict())
    assert_same([p.detach() for p in copies], [p.detach() for p in params])


def test_the_setting_is_not_part_of_the_state_dict():
    """A state_dict can be exchanged between machines with and without a compiler."""
    (params, optimizer), (_, plain) = pair((6, 4))
    step(optimizer, torch.Generator().manual_seed(0))
    plain.load_state_dict(optimizer.state_dict())
    assert not plain.kernels
    torch.optim.Adam(params).load_state_dict(optimizer.state_dict())


def test_the_default_is_the_kernel_unless_an_implementation_of_torch_is_chosen():
    def steps_by_kernel(**options):
        _, optimizer = stepped((3, 2), (4,), **{"kernels": None, **options})
        return num_kernel_steps(optimizer)

    assert steps_by_kernel() == steps_by_kernel(kernels=True) == steps_by_kernel(kernels=True, fused=True) == [2]
    assert steps_by_kernel(dtype=torch.bfloat16) == steps_by_kernel(kernels=False) == [0]
    for flag in ("fused", "foreach"):
        assert steps_by_kernel(**{flag: True}) == steps_by_kernel(**{flag: False}) == [0]
    _, optimizer = stepped((3, 2), kernels=None)
    optimizer.param_groups[0]["foreach"] = True
    step(optimizer, torch.Generator().manual_seed(1))
    assert num_kernel_steps(optimizer) == [0]


def test_without_kernels_the_default_steps_by_torch_operations(monkeypatch):
    monkeypatch.setattr(library, "loaded_library", lambda: "there is no compiler")
    (param,), optimizer = stepped((3, 2), kernels=None)
    (same,), _ = stepped((3, 2), kernels=False)
    assert num_kernel_steps(optimizer) == [0]
    assert torch.equal(param, same)
    with pytest.raises(RuntimeError, match="there are none: there is no compiler"):
        stepped((3, 2), kernels=True)
    optimizer.kernels = True  # as in a copy from another machine
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, requires_grad=True))]})
    before = param.detach().clone()
    with pytest.raises(RuntimeError, match="there is no compiler"):
        step(optimizer, torch.Generator().manual_seed(1))
    assert torch.equal(param, before)


@pytest.mark.parametrize("value", [1, "yes"])
def test_kernels_must_be_a_bool_or_none(value):
    with pytest.raises(TypeError, match=f"kernels must be True, False or None, got {value!r}"):
        AdamGnT([nn.Parameter(torch.ones(2))], kernels=value)


@pytest.mark.parametrize("changing", [0, 1])
def test_a_decay_rate_that_changes_in_each_step_gets_no_tables_and_the_same_corrections(changing):
    runs = []
    for kernels in (True, False):
        generator = torch.Generator().manual_seed(0)
        param = torch.nn.Parameter(torch.ones(6, 4, dtype=torch.float64))
        optimizer = AdamGnT([param], lr=0.1, kernels=kernels)
        param.grad = torch.zeros_like(param)
        tables = []
        for t in range(12):
            betas = [0.9, 0.999]
            betas[changing] -= 0.001 * t if t < 8 else 0.25  # the last steps have the same rates again
            optimizer.param_groups[0]["betas"] = tuple(betas)
            param.grad.normal_(generator=generator)
            optimizer.step()
            if t % 5 == 2:
                optimizer.reset_units(param, t % 2, [1, 3])
            tables.append(_table.cache_info().misses)
        runs.append(param.detach())
        first = 2 if kernels else 4  # without kernels, corrections are needed from the first reset on
        assert tables[first] == tables[7], "a table was made for a decay rate that changes"
    assert torch.allclose(*runs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.0), (0.5, 0.9999999), (0.99, 1 - 2**-53)])
@pytest.mark.parametrize("count", [1, 2, 52, 53, 54, 400, 40000, 1 << 24])
def test_corrections_with_and_without_tables_are_the_same(betas, count):
    results = []
    for steps in (1, 2):  # the second step with the same decay rates has tables
        param = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
        optimizer = AdamGnT([param], lr=0.1, betas=betas, kernels=True)
        param.grad = torch.full_like(param, 0.5)
        for _ in range(steps):
            optimizer.step()
        with torch.no_grad():
            param.fill_(1.0)
        state = optimizer.state[param]
        state["step"].fill_(count - 1)
        state["exp_avg"].fill_(0.25)
        state["exp_avg_sq"].fill_(0.5)
        if steps == 1:
            optimizer.param_groups[0]["betas"] = (0.3, 0.3)
            optimizer.step()
            optimizer.param_groups[0]["betas"] = betas
            with torch.no_grad():
                param.fill_(1.0)
            state["step"].fill_(count - 1)
            state["exp_avg"].fill_(0.25)
            state["exp_avg_sq"].fill_(0.5)
        optimizer.step()
        results.append(param.detach())
    assert torch.equal(*results)


def test_gradients_whose_memory_is_negated_are_read_with_their_sign():
    params = []
    for kernels in (True, False):
        real, imag = (nn.Parameter(torch.ones(1)) for _ in range(2))
        optimizer = AdamGnT([real, imag], lr=0.1, kernels=kernels)
        (torch.complex(real, imag).conj() * (2 + 3j)).imag.sum().backward()
        assert imag.grad.is_neg()
        optimizer.step()
        params.append([real, imag])
    torch.testing.assert_close(*params)
