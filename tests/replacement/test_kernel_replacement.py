"""Replacements of single units by the C kernel equal those by torch operations bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gnt
from gnt.replacement._kernel_replacement import KernelTasks
from tests.helpers.small_runs import assert_same, full_state, mlp


def norm_net() -> nn.Module:
    first = (nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 6, bias=False))
    return nn.Sequential(*first, nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)).double()


def conv_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (4,)),
    "norms": (norm_net, (4,)),
    "1x1 convolutions": (conv_net, (3, 4, 4)),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamgnt": lambda p: gnt.AdamGnT(p, lr=0.01, amsgrad=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("settings", [{}, {"bias_transfer": False, "follow": True}])
def test_replacements_of_single_units_equal_those_by_torch_operations(
    net: str, optimizer: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_net, shape = NETS[net]
    calls: list[int] = []
    replace = KernelTasks.replace
    monkeypatch.setattr(KernelTasks, "replace", lambda *of, **more: (calls.append(1), replace(*of, **more)))
    states = []
    for by_kernel in (True, False):
        torch.manual_seed(0)
        network = make_net()
        for parameter in network.parameters():
            nn.init.normal_(parameter)
        opt = OPTIMIZERS[optimizer](network.parameters())
        anchors = gnt.L2Init(network, strength=1e-3)
        options = {**settings, "follow": [anchors]} if settings else {}
        engine = gnt.GnT(network, opt, replacement_rate=0.1, maturity_threshold=2, decay_rate=0.9, **options,
                         generator=torch.Generator().manual_seed(1))  # fmt: skip
        if not by_kernel:
            monkeypatch.setattr(engine, "_kernels", lambda: None)
        generator = torch.Generator().manual_seed(2)
        for _ in range(14):
            opt.zero_grad()
            x = torch.randn(8, *shape, generator=generator, dtype=next(network.parameters()).dtype)
            network(x).square().mean().backward()
            opt.step()
            engine.step()
        states.append([full_state(network, opt, engine), [each.clone() for each in anchors.start]])
        assert sum(group.state.replaced for group in engine.groups) > 5
        assert bool(calls) == by_kernel
        calls.clear()
    assert_same(*states)


def test_step_counts_that_differ_only_later_are_written_as_by_torch_operations() -> None:
    starts = []
    for kernels in (None, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = gnt.optim.CBPAdam(
            net, lr=0.01, replacement_rate=1 / 16, maturity_threshold=0, utility="random", kernels=kernels
        )
        optimizer.reset_units(net[0].weight, 0, [])
        for step in range(20):
            optimizer.zero_grad()
            net(torch.randn(8, 4)).square().mean().backward()
            for parameter in net[0 if step < 2 else 2].parameters():
                parameter.grad = None
            optimizer.step()
        starts.append([state["column_start"] for state in optimizer.state.values() if "column_start" in state])
    assert len(starts[0]) == 1
    assert_same(*starts)


def test_a_version_is_counted_for_each_changed_parameter() -> None:
    net = mlp()
    engine = gnt.GnT(net)
    before = [parameter._version for parameter in net.parameters()]
    engine.replace([torch.tensor([3]), torch.tensor([], dtype=torch.int64)])
    changed = [parameter._version > version for parameter, version in zip(net.parameters(), before, strict=True)]
    assert changed == [True, True, True, True, False, False]
