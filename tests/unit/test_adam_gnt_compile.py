"""AdamGnT(compile=True): the kernel against the plain tensor operations, and what it must notice before it writes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from gnt.optim import AdamGnT
from gnt.optim.compiled_adam import Compiled
from tests.unit.adam_runs import assert_same, step

TOLERANCE = {torch.float32: {"rtol": 2e-6, "atol": 1e-7}, torch.float64: {"rtol": 1e-14, "atol": 1e-16}}


def pair(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32, **options):
    """The same parameters twice, and an optimizer of each: compiled, plain."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]
    others = copy.deepcopy(params)
    return (params, AdamGnT(params, **options, compile=True)), (others, AdamGnT(others, **options, foreach=False))


def by_kernel(optimizer: AdamGnT) -> list[int]:
    """How many parameters of each group the kernel stepped last."""
    return [
        sum(len(stepper._params) for stepper, _ in roster._steppers if isinstance(stepper, Compiled))
        for roster in optimizer._rosters.values()
    ]


def assert_close(ours, plain, dtype=torch.float32):
    for param, other in zip(ours[0], plain[0], strict=True):
        torch.testing.assert_close(param, other, **TOLERANCE[dtype])
        state, expected = ours[1].state[param], plain[1].state[other]
        assert set(state) == set(expected)
        for key, value in state.items():
            torch.testing.assert_close(value, expected[key], **TOLERANCE[dtype])


def follow(ours, plain):
    """Teacher-forced: what the plain one has computed is where both go on from."""
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
def test_it_steps_as_the_plain_operations(dtype, options):
    """Sizes above and below a vector's, a block's and a thread's share; every kind of parameter; resets on the way."""
    ours, plain = pair((300, 131), (77,), (1,), (6, 2, 3, 3), (8, 4, 3), (1, 5), (0,), (), dtype=dtype, **options)
    generator = torch.Generator().manual_seed(1)
    for t in range(12):
        for param, other in zip(ours[0], plain[0], strict=True):
            param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(dtype) * 10.0 ** (t % 3)
            other.grad = param.grad.clone()
        ours[1].step()
        plain[1].step()
        assert_close(ours, plain, dtype)
        follow(ours, plain)
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
    assert by_kernel(ours[1]) == [8]


@pytest.mark.parametrize("counts", [(1, 2**15 + 1), (2**17 + 5, 2**17 + 3), (2**24 + 2, 2**24)])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.99, 0.99999)])
def test_counts_beyond_the_tables(betas, counts):
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


def test_threads_share_one_parameter():
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
            follow(ours, plain)
    finally:
        torch.set_num_threads(threads)


def test_moments_that_are_hardly_there_become_zero():
    """Unless eps is so small that they would count."""
    for eps, tiny in ((1e-8, 0.0), (0.0, 1e-39)):
        param = nn.Parameter(torch.ones(40))
        optimizer = AdamGnT([param], eps=eps, betas=(0.5, 0.5), compile=True)
        step(optimizer, torch.Generator().manual_seed(0))
        optimizer.state[param]["exp_avg"].fill_(2e-39)
        optimizer.state[param]["exp_avg_sq"].fill_(2e-39)
        param.grad = torch.zeros(40)
        optimizer.step()
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizer.state[param][key], torch.full((40,), tiny), rtol=1e-6, atol=0)


def test_gradients_in_another_layout():
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
    ids=["float64", "elsewhere", "bfloat16", "strided", "transposed"],
)
def test_parameters_that_torch_moved(change):
    """``net.double()`` and the like give a parameter other memory: the kernel must not write into the old."""
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
    assert by_kernel(ours[1]) == [2 if plain[0][0].dtype != torch.bfloat16 and ours[0][0].is_contiguous() else 1]


def another_count(optimizer, param):
    optimizer.state[param]["step"] = torch.tensor(100.0)


def another_moment(optimizer, param):
    optimizer.state[param]["exp_avg"] = torch.full((6, 4), 3.0)


def other_memory(optimizer, param):
    optimizer.state[param]["exp_avg_sq"].data = torch.full((6, 4), 2.0)


def another_state(optimizer, param):
    optimizer.state[param] = {**optimizer.state[param], "step": torch.tensor(50.0)}


def no_state(optimizer, param):
    del optimizer.state[param]


@pytest.mark.parametrize("change", [another_count, another_moment, other_memory, another_state, no_state])
def test_state_put_in_the_place_of_state(change):
    ours, plain = pair((6, 4), (6,))
    for params, optimizer in (ours, plain):
        step(optimizer, torch.Generator().manual_seed(0))
        change(optimizer, params[0])
        if optimizer is plain[1]:
            optimizer._rosters.clear()  # this one has nothing to notice
        step(optimizer, torch.Generator().manual_seed(1))
    assert_close(ours, plain)


def test_parameters_that_come_and_go():
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
    assert by_kernel(ours[1]) == [2, 1]
    torch.testing.assert_close(ours[0], plain[0], rtol=1e-5, atol=1e-6)


def test_what_the_kernel_is_not_for_is_stepped_as_without():
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
        assert by_kernel(optimizer) == [1 if kind == "channels_last" else 0]
        torch.testing.assert_close(params, others, rtol=1e-5, atol=1e-6)


def test_values_that_a_backward_needs_are_not_changed_under_it():
    param = nn.Parameter(torch.ones(3))
    optimizer = AdamGnT([param], compile=True)
    loss = (param * param).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_are_compiled_and_go_on_bit_for_bit(copied):
    (params, optimizer), _ = pair((6, 4), (6,), amsgrad=True)
    step(optimizer, torch.Generator().manual_seed(0))
    optimizer.reset_units(params[0], 0, [1])
    step(optimizer, torch.Generator().manual_seed(1))
    copies, twin = copied((params, optimizer))
    assert twin.compile
    loaded = AdamGnT(copy.deepcopy(params), compile=True)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert loaded.compile
    for each in (optimizer, twin, loaded):
        step(each, torch.Generator().manual_seed(2))
        assert by_kernel(each) == [2]
    assert_same(twin.state_dict(), optimizer.state_dict())
    assert_same(loaded.state_dict(), optimizer.state_dict())
    assert_same([p.detach() for p in copies], [p.detach() for p in params])


def test_it_is_saved_without_the_flag():
    """A state_dict made where there is a compiler serves where there is none, and the other way round."""
    (params, optimizer), (_, plain) = pair((6, 4))
    step(optimizer, torch.Generator().manual_seed(0))
    plain.load_state_dict(optimizer.state_dict())
    assert not plain.compile
    torch.optim.Adam(params).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_the_flag_is_true_or_false(value):
    with pytest.raises(TypeError, match=f"compile must be True or False, got {value!r}"):
        AdamGnT([nn.Parameter(torch.ones(2))], compile=value)
