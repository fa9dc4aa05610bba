"""`attach` of methods against forgetting with a GradScaler: steps that it skips leave no trace."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.helpers.small_runs import assert_same, batch, mlp

OPTIMIZERS: dict[str, Any] = {
    "unscaled by the scaler": lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
    "unscaled in its step": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, fused=True),
}


def gem(net: nn.Module) -> gnt.GEM:
    method = gnt.GEM(net, F.mse_loss, generator=torch.Generator().manual_seed(3))
    for task in range(2):
        method.begin_task(task)
        method.add(*batch(90 + task))
    method.begin_task(2)
    return method


def agem(net: nn.Module) -> gnt.AGEM:
    buffer = gnt.ReplayBuffer(30, generator=torch.Generator().manual_seed(3))
    for number in range(4):
        buffer.add(*batch(90 + number))
    return gnt.AGEM(net, buffer, F.mse_loss, batch_size=6)


def ewc(net: nn.Module) -> gnt.EWC:
    method = gnt.EWC(net, 50.0, likelihood="gaussian")
    method.consolidate(net, batch(90)[0])
    return method


METHODS: dict[str, Any] = {"EWC": ewc, "SI": lambda net: gnt.SI(net, 5.0), "AGEM": agem, "GEM": gem}


def trained(kind: str, optimizer_name: str, steps: range, skipped: tuple[int, ...] = (), *, scaled: bool = True) -> Any:
    net = mlp()
    optimizer = OPTIMIZERS[optimizer_name](net)
    method = METHODS[kind](net)
    method.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
    for t in steps:
        x, y = batch(t)
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), torch.full_like(y, math.inf) if t in skipped else y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update(2.0**10)
        if kind == "SI" and t == 5:
            method.consolidate()
    assert kind != "SI" or method.importance(net[0].weight).any()
    return copy.deepcopy([dict(net.state_dict()), optimizer.state_dict(), method.state_dict()])


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("kind", METHODS)
def test_a_step_that_the_scaler_skips_leaves_no_trace(kind: str, optimizer_name: str) -> None:
    found = trained(kind, optimizer_name, range(12), (3, 4, 8))
    kept = [t for t in range(12) if t not in (3, 4, 8)]
    assert_same(found, trained(kind, optimizer_name, kept))  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("kind", METHODS)
def test_a_scaler_changes_nothing_beyond_rounding(kind: str, optimizer_name: str) -> None:
    results = [trained(kind, optimizer_name, range(10), scaled=scaled) for scaled in (True, False)]
    for mine, theirs in zip(*(result[0].values() for result in results), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    without = mlp()
    optimizer = OPTIMIZERS[optimizer_name](without)
    for t in range(10):
        optimizer.zero_grad()
        F.mse_loss(without(batch(t)[0]), batch(t)[1]).backward()
        optimizer.step()
    assert not torch.allclose(results[0][0]["0.weight"], without[0].weight, atol=1e-4), "the method did nothing"
