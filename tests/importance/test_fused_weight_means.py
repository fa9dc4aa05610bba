"""With ``kernels`` the optimizers sum |w| while they step: what the engine finds then is what it would have read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gnt.optim import CBPSGD, CBPAdam, CBPAdamW
from tests.helpers.small_runs import mlp

WIDTHS = (20, 70, 130, 67, 3)  # beyond a chunk of rows, and no multiple of a vector


def gradients(net: nn.Module, t: int) -> None:
    dtype = next(net.parameters()).dtype
    x = torch.randn(8, WIDTHS[0], generator=torch.Generator().manual_seed(t), dtype=dtype)
    net.zero_grad()
    net(x).square().mean().backward()


def run(optimizer: torch.optim.Optimizer, net: nn.Module, steps: range) -> None:
    for t in steps:
        gradients(net, t)
        optimizer.step()


def magnitudes(weight: Tensor) -> tuple[Tensor, Tensor]:
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
def test_the_means_are_those_of_the_weights(kind: type, options: dict[str, Any], dtype: torch.dtype, utility: str):
    net = mlp(*WIDTHS).to(dtype)
    optimizer = kind(net, kernels=True, utility=utility, replacement_rate=0.01, maturity_threshold=3, **options)
    compared = 0
    for t in range(30):
        run(optimizer, net, range(t, t + 1))
        places = optimizer.gnt.weight_means
        assert len(places) == {"contribution": 3, "adaptation": 3, "adaptable_contribution": 4}[utility]
        for weight in (module.weight for module in net if isinstance(module, nn.Linear)):
            place = places.get(id(weight))
            if place is None or place.version != weight._version:
                continue  # of no use to the measure, or a unit was replaced since
            compared += 1
            for found, wanted in zip((place.rows, place.columns), magnitudes(weight), strict=True):
                if found is not None:
                    torch.testing.assert_close(found, wanted)
    assert compared > 10
    assert sum(group.state.replaced for group in optimizer.gnt.groups) > 10


@pytest.mark.parametrize("kind", [CBPSGD, CBPAdam])
def test_a_weight_that_was_changed_since_is_read(kind: type) -> None:
    net = mlp(4, 6, 2)
    optimizer = kind(net, kernels=True, utility="weight", replacement_rate=0.0, decay_rate=0.0)
    run_on = torch.randn(8, 4)
    net(run_on).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        net[2].weight.mul_(2)
    optimizer.gnt.update([torch.rand(3, 6)])
    torch.testing.assert_close(optimizer.gnt.groups[0].state.utility, magnitudes(net[2].weight)[1])


@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1}, {"maximize": True}, {"momentum": 0.9}, {"foreach": True}],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_replacement_it_is_sgd_to_the_last_bit(options: dict[str, Any], dtype: torch.dtype) -> None:
    net = mlp(*WIDTHS).to(dtype)
    other = copy.deepcopy(net)
    optimizer = CBPSGD(net, lr=0.05, kernels=True, replacement_rate=0.0, **options)
    peer = torch.optim.SGD(other.parameters(), lr=0.05, **options)
    for opt, one in ((optimizer, net), (peer, other)):
        schedule = torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)
        for t in range(20):
            run(opt, one, range(t, t + 1))
            schedule.step()
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_what_the_kernel_cannot_step_goes_by_torch() -> None:
    for change in (lambda net: net.bfloat16(), lambda net: net[2].weight.data.t_().contiguous().t_()):
        net = mlp(4, 5, 5, 2)
        change(net)
        other = copy.deepcopy(net)
        optimizer = CBPSGD(net, lr=0.05, kernels=True, replacement_rate=0.0)
        peer = torch.optim.SGD(other.parameters(), lr=0.05)
        for opt, one in ((optimizer, net), (peer, other)):
            one(torch.ones(2, 4, dtype=one[0].weight.dtype)).square().sum().backward()
            opt.step()
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", [CBPSGD, CBPAdam])
def test_old_values_are_told_to_autograd(kind: type) -> None:
    net = mlp(4, 6, 2)
    optimizer = kind(net, kernels=True)
    loss = net(torch.randn(3, 4, requires_grad=True)).square().mean()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks_and_closures_and_copies() -> None:
    net = mlp(4, 6, 2)
    optimizer = CBPSGD(net, kernels=True)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    x = torch.randn(3, 4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    closure()
    assert optimizer.step() is None
    assert seen == ["before", "after"] * 2
    assert optimizer.gnt.updates == 2
    again, twin = copy.deepcopy((net, optimizer))
    again(x).square().mean().backward()
    twin.step()
    assert (twin.gnt.updates, optimizer.gnt.updates) == (3, 2)
