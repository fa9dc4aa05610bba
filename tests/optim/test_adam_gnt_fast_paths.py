"""Fast paths of AdamGnT: torch's fused Adam, blocks of rows, reused step plans, and no device synchronization."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gnt.optim import AdamGnT
from gnt.optim._adam import per_unit_step
from gnt.optim._adam.bias_correction import BiasCorrections
from tests.helpers.small_runs import assert_same
from tests.optim.adam_runs import step, stepped

ODD_LAYOUTS = {
    "transposed": lambda value: value.t().contiguous().t(),
    "strided": lambda value: value.repeat_interleave(2, 1)[:, ::2],
}


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}, {"foreach": False}])
@pytest.mark.parametrize("layout", ODD_LAYOUTS)
def test_gradients_may_have_another_memory_layout_than_their_parameters(options, layout):
    """torch's fused Adam on the CPU reads gradients in memory order, and would mix up elements (torch 2.6 to 2.13)."""
    (param,), optimizer = stepped((6, 4), **options)
    (same,), plain = stepped((6, 4), foreach=False)
    for seed in range(3):
        grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
        param.grad, same.grad = ODD_LAYOUTS[layout](grad), grad
        optimizer.step()
        plain.step()
    torch.testing.assert_close(param, same, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": False}])
@pytest.mark.parametrize("layout", ODD_LAYOUTS)
def test_parameters_may_have_any_memory_layout(options, layout):
    """Also if their layout changes after some steps while the moments keep theirs."""
    (param,), optimizer = stepped((6, 4), **options)
    (same,), plain = stepped((6, 4), foreach=False)
    for seed in range(4):
        if seed == 1:
            param.grad = None
            param.data = ODD_LAYOUTS[layout](param.data)
        for each in (optimizer, plain):
            step(each, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(param, same, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_default_implementation_without_kernels_is_fused(dtype):
    for options in ({}, {"weight_decay": 0.1, "amsgrad": True}, {"lr": torch.tensor(0.1), "maximize": True}):
        (param,), _ = stepped((64, 3), steps=20, dtype=dtype, **options)
        (same,), _ = stepped((64, 3), steps=20, dtype=dtype, fused=True, **options)
        assert torch.equal(param, same)


def test_stepping_in_blocks_of_rows_gives_the_same_result(monkeypatch):
    results = []
    shapes = [(700, 300), (70_000, 2), (3, 50_000), (200_000,), (64, 32, 9, 9), (8, 16, 40, 30), (5, 4)]
    for block in (1 << 12, 1 << 16, 1 << 30):
        monkeypatch.setattr(per_unit_step, "BLOCK_SIZE", block)
        params, optimizer = stepped(*shapes, steps=1, weight_decay=0.1, amsgrad=True)
        for param in params:
            optimizer.reset_units(param, 0, [0, len(param) - 1])
            if param.dim() == 2:
                optimizer.reset_units(param, 1, [1])
        optimizer.reset_units(params[4], 1, [3, 31])
        optimizer.reset_units(params[5], 1, [3, 31], groups=2)
        for seed in range(2):
            step(optimizer, torch.Generator().manual_seed(seed))
        results.append([param.detach() for param in params])
    assert_same(results[1:], results[:1] * 2)


def test_parameters_of_a_group_have_their_own_step_counts():
    """Parameters that have missed steps, with and without resets, step as if they were alone."""
    (a, b, c), optimizer = stepped((4, 3), (4,), (3,), steps=0, lr=0.01)
    alone = []
    for t in range(6):
        for i, param in enumerate((a, b, c)):
            param.grad = torch.full_like(param, 0.5 * (i + 1)) if t % (i + 1) == 0 else None
        optimizer.step()
        if t == 3:
            optimizer.reset_units(a, 1, [1])
            optimizer.reset_units(b, 0, [2])
    for i, shape in enumerate([(4, 3), (4,), (3,)]):
        (param,), other = stepped(shape, steps=0, lr=0.01)
        param.data.copy_(stepped((4, 3), (4,), (3,), steps=0)[0][i].data)
        for t in range(6):
            if t % (i + 1) == 0:
                param.grad = torch.full_like(param, 0.5 * (i + 1))
                other.step()
            if t == 3 and i < 2:
                other.reset_units(param, 1 - i, [1 + i])
        alone.append(param.detach())
    torch.testing.assert_close([p.detach() for p in (a, b, c)], alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kernels", [False, True])
def test_a_step_plan_is_reused_until_something_changes(kernels):
    """A first reset, loading, and other parameters with gradients need a new plan; later resets and a new lr do not."""
    params, optimizer = stepped((4, 3), (4,), kernels=kernels)

    def has_new_plan() -> bool:
        before = optimizer._plans.get(0)
        step(optimizer, torch.Generator().manual_seed(0))
        return optimizer._plans[0] is not before

    assert not has_new_plan()
    optimizer.reset_units(params[0], 0, [1])
    assert has_new_plan()
    optimizer.reset_units(params[0], 0, [2])
    optimizer.param_groups[0]["lr"] = 0.5
    assert not has_new_plan()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert has_new_plan()
    params[1].grad = None
    before = optimizer._plans.get(0)
    optimizer.step()
    assert optimizer._plans[0] is not before
    assert has_new_plan()


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.5, 0.9999999), (0.99, 1 - 2**-53)])
@pytest.mark.parametrize("now", [60, 4096, 1 << 17])
def test_corrections_with_and_without_tables_are_the_same(betas, now):
    """From the second step in a row with the same decay rates on, they are read from tables."""
    param = torch.ones(40, 3, dtype=torch.float64)
    starts = {"row_start": now - 1 - torch.arange(40), "column_start": torch.tensor([0, now // 2, now - 2])}
    corrections = BiasCorrections([param], [starts])
    results = []
    for _ in range(2):
        corrections.compute([now], {"lr": 0.1, "betas": betas})
        results.append([value.clone() for pair in corrections.of(0) for value in pair])
    assert_same(*results)


class NoSynchronization(TorchDispatchMode):
    """Raises for operations on the meta device that would synchronize with an accelerator: value reads and copies."""

    SYNCHRONIZING = (
        "_local_scalar_dense",
        "nonzero",
        "is_nonzero",
        "equal",
        "masked_select",
        "unique",
        "_unique2",
        "item",
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if name in self.SYNCHRONIZING and any(tensor.device.type == "meta" for tensor in tensors):
            raise AssertionError(f"{func} synchronizes")
        if name == "_to_copy" and kwargs.get("device", tensors[0].device).type != tensors[0].device.type:
            to_host = tensors[0].device.type == "meta"
            assert not to_host, f"{func} copies to the host"
            assert kwargs.get("non_blocking"), f"{func} copies to the device synchronously"
        return func(*args, **kwargs)


@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "weight_decay": 0.1}, {"decoupled_weight_decay": True}])
def test_steps_and_resets_do_not_synchronize(options):
    """The meta device stands in for an accelerator: its tensors have no values."""
    params = [nn.Parameter(torch.randn(shape, device="meta")) for shape in [(6, 4), (6,), (4, 2, 3, 3)]]
    optimizer = AdamGnT(params, lr=0.1, **options)
    index = torch.zeros(2, dtype=torch.int64, device="meta")
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer.step()
    optimizer.reset_units(params[0], 0, index)
    optimizer.step()  # copies the tables of corrections to the device, once
    with pytest.raises(AssertionError, match="synchronizes"), NoSynchronization():
        _ = params[0].sum() > 0 or bool(params[0].sum())
    with pytest.raises(AssertionError, match="copies to the host"), NoSynchronization():
        index.to("cpu")
    with NoSynchronization():
        for _ in range(3):
            optimizer.step()
            for param in params:
                optimizer.reset_units(param, 0, index)
                optimizer.reset_units(param, 0, [1])
            optimizer.reset_units(params[0], 1, index)
            optimizer.reset_units(params[2], 1, index, groups=2)


@pytest.mark.parametrize("options", [{"kernels": False}, {"kernels": True}, {"foreach": False}])
def test_steps_on_the_cpu_read_only_scalar_tensors(options):
    class NoTensorReads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ in NoSynchronization.SYNCHRONIZING:
                assert args[0].dim() == 0, f"{func} reads"
            return func(*args, **(kwargs or {}))

    params, optimizer = stepped((6, 4), (6,), **options)
    with NoTensorReads():
        for _ in range(2):
            optimizer.step()
            optimizer.reset_units(params[0], 1, torch.tensor([1]))
            optimizer.reset_units(params[1], 0, [0])
        optimizer.step()
