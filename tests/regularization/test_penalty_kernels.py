"""The C kernels of EWC and SI against the same steps by torch operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gnt
from gnt.regularization import _kernel_calls, _weighted_penalty, si
from tests.helpers.small_runs import assert_same


def parameters(dtype: torch.dtype, odd: bool) -> list[nn.Parameter]:
    """Sizes around those of tiles and vectors, and, if ``odd``, layouts and dtypes that the kernel does not take."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(3, 5), (1,), (300, 7), (256,), (0, 4), (1031,)]
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    if odd:
        made.insert(1, torch.randn(6, 4, generator=generator, dtype=dtype).t())
        made.insert(3, torch.randn(2, 3, 4, 5, generator=generator, dtype=dtype).to(memory_format=torch.channels_last))
        made.append(torch.randn(8, generator=generator, dtype=torch.float64))
    return [nn.Parameter(each) for each in made]


def run(dtype: torch.dtype, odd: bool, method: str) -> tuple[list[Tensor], dict[str, object]]:
    """Six steps in two tasks, with a frozen parameter in the second."""
    params, generator = parameters(dtype, odd), torch.Generator().manual_seed(4)
    memory = gnt.SI(params, 0.3) if method == "SI" else gnt.MAS(params, 0.3)
    for task in range(2):
        for _ in range(3):
            for each in params:
                each.grad = (
                    torch.randn(each.shape, generator=generator, dtype=each.dtype) if each.requires_grad else None
                )
            memory.backward()
            with torch.no_grad():
                for each in params:
                    if each.grad is not None:
                        each.sub_(each.grad, alpha=0.1)
            if method == "SI":
                memory.step()
        if method == "SI":
            memory.consolidate()
        else:
            state = memory.state_dict()
            state["importance"] = [torch.rand(p.shape, generator=generator, dtype=p.dtype) for p in params]
            memory.load_state_dict(state)
        params[2].requires_grad_(task == 1)
    return [each.detach() for each in params], memory.state_dict()


@pytest.mark.parametrize("method", ["SI", "MAS"])
@pytest.mark.parametrize(("dtype", "odd"), [(torch.float32, False), (torch.float32, True), (torch.float64, True)])
@pytest.mark.parametrize("around_cache", [0, 1 << 23])
def test_steps_by_kernels_equal_those_by_torch_operations(monkeypatch, dtype, odd, method, around_cache):
    calls = []
    kernel = _kernel_calls.load

    def counted(name: str, kind: torch.dtype) -> object:
        calls.append(name)
        return kernel(name, kind)

    monkeypatch.setattr(_kernel_calls, "load", counted)
    monkeypatch.setattr(_kernel_calls, "AROUND_CACHE", around_cache)
    weights, state = run(dtype, odd, method)
    assert set(calls) == ({"penalty_gradient", "path_integral"} if method == "SI" else {"penalty_gradient"})
    for module in (_weighted_penalty, si):
        monkeypatch.setattr(module, "split_for_kernel", lambda *lists: ([[] for _ in lists], list(lists)))
    before = len(calls)
    expected_weights, expected = run(dtype, odd, method)
    assert len(calls) == before
    tolerance = {"rtol": 2e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(weights, expected_weights, **tolerance)
    for name in ("importance", "anchors", *(["path"] if method == "SI" else [])):
        torch.testing.assert_close(state[name], expected[name], **tolerance)
    again = run(dtype, odd, method)[0]
    assert_same(again, expected_weights)


def test_a_kernel_that_adds_to_gradients_marks_them_as_changed():
    params = parameters(torch.float32, False)
    memory = gnt.SI(params, 0.3)
    for step in range(2):
        for each in params:
            each.grad = -torch.ones_like(each)
        versions = [each.grad._version for each in params]
        memory.backward()
        changed = [each.grad._version > version for each, version in zip(params, versions, strict=True)]
        assert changed == [step == 1 and each.numel() > 0 for each in params]
        with torch.no_grad():
            torch._foreach_add_(params, 0.1)
        memory.step()
        memory.consolidate()
