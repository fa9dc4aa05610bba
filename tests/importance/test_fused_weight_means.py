"""Mean weight magnitudes that optimizers with ``kernels=True`` compute during their step, for use by the engine."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gnt import GnT
from gnt.optim import CBPSGD, AdamGnT, CBPAdam, CBPAdamW
from tests.helpers.small_runs import mlp

WIDTHS = (20, 70, 130, 67, 3)  # more rows than one chunk, and not a multiple of the vector length


def backward(net: nn.Module, t: int) -> None:
    dtype = next(net.parameters()).dtype
    x = torch.randn(8, WIDTHS[0], generator=torch.Generator().manual_seed(t), dtype=dtype)
    net.zero_grad()
    net(x).square().mean().backward()


def train(optimizer: torch.optim.Optimizer, net: nn.Module, steps: range) -> None:
    for t in steps:
        backward(net, t)
        optimizer.step()


def mean_magnitudes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Means of |w| over each row and over each column."""
    magnitude = weight.detach().abs()
    return magnitude.mean(1), magnitude.mean(0)


@pytest.mark.parametrize("utility", ["contribution", "adaptation", "adaptable_contribution"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CBPSGD, {}),
        (CBPSGD, {"weight_decay": 0.1, "maximize": True}),
        (CBPAdam, {"lr": 1e-2}),
        (CBPAdam, {"amsgrad": True}),
        (CBPAdamW, {"weight_decay": 0.1}),
    ],
)
def test_fused_means_equal_the_means_of_the_weights(
    kind: type, options: dict[str, Any], dtype: torch.dtype, utility: str
):
    net = mlp(*WIDTHS).to(dtype)
    optimizer = kind(net, kernels=True, utility=utility, replacement_rate=0.01, maturity_threshold=3, **options)
    compared = 0
    for t in range(30):
        train(optimizer, net, range(t, t + 1))
        fused_means = optimizer.gnt.weight_means
        assert len(fused_means) == {"contribution": 3, "adaptation": 3, "adaptable_contribution": 4}[utility]
        for weight in (module.weight for module in net if isinstance(module, nn.Linear)):
            fused = fused_means.get(id(weight))
            if fused is None or fused.version != weight._version:
                continue  # not read by the measure, or outdated by a replacement
            compared += 1
            for actual, expected in zip((fused.rows, fused.columns), mean_magnitudes(weight), strict=True):
                if actual is not None:
                    torch.testing.assert_close(actual, expected)
    assert compared > 10
    assert sum(group.state.replaced for group in optimizer.gnt.groups) > 10


def test_adam_gnt_computes_the_means_of_an_attached_engine_until_it_is_closed() -> None:
    runs = []
    for attached in (True, False):
        net = mlp(*WIDTHS)
        optimizer = AdamGnT(net.parameters(), lr=0.01, kernels=True)
        engine = GnT(net, optimizer, kernels=True, replacement_rate=0.0)
        runs.append((net, optimizer, engine.attach() if attached else engine))
    for t in range(5):
        for net, optimizer, engine in runs:
            train(optimizer, net, range(t, t + 1))
            if engine is runs[1][2]:
                engine.step()
    for group, other in zip(runs[0][2].groups, runs[1][2].groups, strict=True):
        torch.testing.assert_close(group.state.utility, other.state.utility)
    net, optimizer, engine = runs[0]
    versions = [means.version for means in engine.weight_means.values()]
    assert versions == [means.module.weight._version for means in engine.weight_means.values()]
    engine.close()
    train(optimizer, net, range(5, 6))
    assert [means.version for means in engine.weight_means.values()] == versions


def test_adam_gnt_computes_no_means_if_a_hook_before_the_engine_may_change_weights() -> None:
    net = mlp(4, 6, 2)
    optimizer = AdamGnT(net.parameters(), lr=0.01, kernels=True)
    optimizer.register_step_post_hook(lambda *_: net[2].weight.data.mul_(2))
    engine = GnT(net, optimizer, kernels=True, utility="weight", replacement_rate=0.0, decay_rate=0.0).attach()
    for t in range(3):
        net.zero_grad()
        net(torch.randn(8, 4, generator=torch.Generator().manual_seed(t))).square().mean().backward()
        optimizer.step()
        torch.testing.assert_close(engine.groups[0].state.utility, mean_magnitudes(net[2].weight)[1])


@pytest.mark.parametrize("kind", [CBPSGD, CBPAdam])
def test_means_are_recomputed_if_a_weight_changed_after_the_step(kind: type) -> None:
    net = mlp(4, 6, 2)
    optimizer = kind(net, kernels=True, utility="weight", replacement_rate=0.0, decay_rate=0.0)
    net(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        net[2].weight.mul_(2)
    optimizer.gnt.update([torch.rand(3, 6)])
    torch.testing.assert_close(optimizer.gnt.groups[0].state.utility, mean_magnitudes(net[2].weight)[1])


@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1}, {"maximize": True}, {"momentum": 0.9}, {"foreach": True}],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_replacement_steps_equal_torch_sgd_bit_for_bit(options: dict[str, Any], dtype: torch.dtype) -> None:
    net = mlp(*WIDTHS).to(dtype)
    other = copy.deepcopy(net)
    optimizer = CBPSGD(net, lr=0.05, kernels=True, replacement_rate=0.0, **options)
    reference = torch.optim.SGD(other.parameters(), lr=0.05, **options)
    for opt, each in ((optimizer, net), (reference, other)):
        schedule = torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)
        for t in range(20):
            train(opt, each, range(t, t + 1))
            schedule.step()
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_parameters_unsupported_by_the_kernel_are_stepped_by_torch() -> None:
    for change in (lambda net: net.bfloat16(), lambda net: net[2].weight.data.t_().contiguous().t_()):
        net = mlp(4, 5, 5, 2)
        change(net)
        other = copy.deepcopy(net)
        optimizer = CBPSGD(net, lr=0.05, kernels=True, replacement_rate=0.0)
        reference = torch.optim.SGD(other.parameters(), lr=0.05)
        for opt, each in ((optimizer, net), (reference, other)):
            each(torch.ones(2, 4, dtype=each[0].weight.dtype)).square().sum().backward()
            opt.step()
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", [CBPSGD, CBPAdam])
def test_steps_increment_the_version_that_autograd_checks(kind: type) -> None:
    net = mlp(4, 6, 2)
    optimizer = kind(net, kernels=True)
    loss = net(torch.randn(3, 4, requires_grad=True)).square().mean()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks_closures_and_copies_work() -> None:
    net = mlp(4, 6, 2)
    optimizer = CBPSGD(net, kernels=True)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    x = torch.randn(3, 4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    closure()
    assert optimizer.step() is None
    assert calls == ["before", "after"] * 2
    assert optimizer.gnt.updates == 2
    net_copy, optimizer_copy = copy.deepcopy((net, optimizer))
    net_copy(x).square().mean().backward()
    optimizer_copy.step()
    assert (optimizer_copy.gnt.updates, optimizer.gnt.updates) == (3, 2)
