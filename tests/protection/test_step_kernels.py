"""What HAT computes in a step by C kernels, against torch operations: gates with their gradients, and fixed weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import gnt
from gnt.protection import _frozen_entries, _gate_kernel
from gnt.protection._frozen_entries import FrozenEntries, RestoredParameters
from gnt.protection._gate_kernel import GateKernel
from tests.helpers.small_runs import assert_same, conv_net

DTYPES = [torch.float32, torch.float64]


def gated(net: nn.Module, **settings) -> gnt.HAT:
    hat = gnt.HAT(net, gnt.walk(net), generator=torch.Generator().manual_seed(1), **settings)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    hat.begin(0, optimizer, steps_per_epoch=5)
    hat._progress.step = 2
    return hat


def results(hat: gnt.HAT, *, create_graph: bool = False) -> list[torch.Tensor]:
    """Gates, penalty, the gates of each place, and the gradient of e of a sum of all."""
    hat._refresh_gates(clamp=True)
    found = [hat.gates, hat.penalty(), *hat._gates.parts]
    generator = torch.Generator().manual_seed(2)
    total = sum((each * torch.randn(each.shape, generator=generator, dtype=each.dtype)).sum() for each in found)
    (gradient,) = torch.autograd.grad(total, hat.embedding, create_graph=create_graph)
    return [*(each.detach().clone() for each in found), gradient.detach()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compensation", ["published", "exact", "none"])
@pytest.mark.parametrize("mode", ["original", "cross"])
def test_gates_penalty_and_gradient_equal_those_of_torch_operations(monkeypatch, dtype, compensation, mode):
    settings = {"s_max": 20.0, "gradient_clip": 15.0, "sparsity_mode": mode, "compensation": compensation}
    hat = gated(conv_net().to(dtype), **settings)
    hat.cumulative[::3] = 1.0
    hat._start()
    values = torch.tensor([-9.0, -4.0, -0.3, 0.0, 1e-4, 2.0, 5.9, 7.0], dtype=dtype)
    with torch.no_grad():
        hat.embedding.copy_(values.repeat(len(hat.embedding))[: len(hat.embedding)])
    other = hat.embedding.detach().clone()
    version = hat.embedding._version
    by_kernel = [*results(hat), hat.embedding.detach().clone()]
    assert hat._gates.penalty is not None
    assert hat.embedding._version > version
    torch.testing.assert_close(results(hat, create_graph=True), by_kernel[:-1])  # its backward is torch operations
    monkeypatch.setattr(GateKernel, "fits", lambda self, embedding: False)
    with torch.no_grad():
        hat.embedding.copy_(other)
    by_torch = [*results(hat), hat.embedding.detach()]
    assert hat._gates.penalty is None
    torch.testing.assert_close(by_kernel, by_torch, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=1e-7)


def test_micro_batches_share_the_gates_and_may_change_the_penalty_in_place():
    hat = gated(conv_net())
    gradients = []
    for _ in range(2):
        hat.embedding.grad = None
        penalty = hat.penalty()
        penalty += 1.0
        (penalty + hat.gates.sum()).backward()
        gradients.append(hat.embedding.grad.clone())
    assert_same(*gradients)
    assert float(hat.penalty().detach()) == pytest.approx(float(penalty.detach()) - 1)


def test_an_embedding_that_is_not_finite_gives_gates_that_are_not_finite():
    hat = gated(conv_net())
    with torch.no_grad():
        hat.embedding[1] = float("nan")
    found = results(hat)
    assert found[0].isnan().nonzero().tolist() == [[1]]
    assert found[1].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_fixed_entries_get_their_bits_back(monkeypatch, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [
        ((5, 7), (5, 7)),
        ((5, 7), (5, 1)),
        ((9,), (9,)),
        ((3, 4), (1, 1)),
        ((4, 3, 2), (4, 1, 1)),
        ((4, 3, 2), (4, 3, 1)),
    ]
    parameters = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape, _ in shapes]
    masks = [torch.rand(shape, generator=generator) < 0.5 for _, shape in shapes]
    masks[0][2] = False  # a row without
    masks[3].fill_(True)
    parameters[0].data[0, 0] = parameters[1].data[0, 0] = float("nan")
    before = copy.deepcopy(parameters)
    frozen = [FrozenEntries(p.detach(), mask) for p, mask in zip(parameters, masks, strict=True)]
    moved = [torch.randn(p.shape, generator=generator, dtype=dtype) for p in parameters]
    calls = []
    load = _frozen_entries.load
    monkeypatch.setattr(_frozen_entries, "load", lambda *given: calls.append(given) or load(*given))
    for kernels in (True, False):
        monkeypatch.setattr(_frozen_entries, "use_kernels", lambda setting, use=kernels: use)
        restored = RestoredParameters(parameters, frozen)
        for _ in range(2):  # the second time with what the first has prepared
            for p, new in zip(parameters, moved, strict=True):
                p.data = new.clone()  # at another place
            versions = [p._version for p in parameters]
            restored.restore()
            for p, old, new, mask, version in zip(parameters, before, moved, masks, versions, strict=True):
                assert_same(p.detach(), torch.where(mask, old, new).detach())
                assert p._version > version
    assert len(calls) == 2


def test_a_run_by_kernels_equals_one_by_torch_operations_and_keeps_old_outputs(monkeypatch):
    def run() -> list[torch.Tensor]:
        net = conv_net()
        hat = gnt.HAT(net, gnt.walk(net), generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=0.1)
        x, outputs = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3)), []
        for task in range(3):
            with hat.learning(task, optimizer, steps_per_epoch=4):
                for _ in range(4):
                    optimizer.zero_grad()
                    (net(x + task).square().mean() + hat.penalty()).backward()
                    optimizer.step()
            with hat.use(0), torch.no_grad():
                outputs.append(net.eval()(x))
            net.train()
        for later in outputs[1:]:
            assert_same(later, outputs[0])
        return [each.detach().clone() for each in (*net.parameters(), hat.embedding)]

    by_kernel = run()
    assert_same(by_kernel, run())
    for module in (_frozen_entries, _gate_kernel):
        monkeypatch.setattr(module, "use_kernels", lambda setting, fit=True: False)
    torch.testing.assert_close(by_kernel, run(), rtol=1e-3, atol=1e-5)


def test_a_batch_of_gradients_equals_single_ones():
    hat = gated(conv_net())
    directions = torch.eye(len(hat.embedding))
    for found in (hat.gates, hat._gates.parts[0].flatten()):
        chosen = directions[: len(found), : len(found)]
        (batch,) = torch.autograd.grad(found, hat.embedding, chosen, retain_graph=True, is_grads_batched=True)
        single = [torch.autograd.grad(found, hat.embedding, each, retain_graph=True)[0] for each in chosen]
        assert_same(batch, torch.stack(single))


def test_a_gradient_with_a_negative_bit_is_read_as_negative():
    hat = gated(conv_net())
    one = torch.ones(len(hat.embedding))
    negative, positive = (
        torch.autograd.grad(hat.gates, hat.embedding, each, retain_graph=True)[0]
        for each in (torch._neg_view(one), one)
    )
    assert_same(negative, -positive)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_fixed_entries_are_converted_with_their_parameter(monkeypatch, kernels, dtype):
    monkeypatch.setattr(_frozen_entries, "use_kernels", lambda setting: kernels)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((5, 7), (5, 7), (9,), (3, 4))]
    masks = [torch.rand(shape) < 0.5 for shape in ((5, 7), (5, 1), (9,))] + [torch.ones(1, 1, dtype=torch.bool)]
    before = [p.detach().clone() for p in parameters]
    restored = RestoredParameters(
        parameters, [FrozenEntries(p.detach(), mask) for p, mask in zip(parameters, masks, strict=True)]
    )
    for kind in (torch.float32, dtype, torch.float32):
        for p in parameters:
            p.data = torch.randn(p.shape).to(kind)
        moved = [p.detach().clone() for p in parameters]
        restored.restore()
        before = [old.to(kind) for old in before]
        for p, old, new, mask in zip(parameters, before, moved, masks, strict=True):
            assert_same(p.detach(), torch.where(mask, old, new))
