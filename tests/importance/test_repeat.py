"""A step like the one before takes a shorter way: bit by bit the long one, and left where anything differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gnt
from gnt.importance._evaluate.repeat import Again
from gnt.optim import CBPSGD, CBPAdam
from tests.helpers.small_runs import assert_same, everything, mlp, replaced

Change = Callable[[nn.Module, Any], None]


def draw(t: int, n: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(t), dtype=dtype)


def learn(net: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    net(x).square().mean().backward()
    optimizer.step()


def built(**settings: Any) -> tuple[nn.Module, torch.optim.Optimizer, gnt.GnT]:
    net = mlp(5, 9, 7, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    rules = {"replacement_rate": 0.05, "maturity_threshold": 4, "kernels": True, **settings}
    engine = gnt.GnT(net, optimizer, generator=torch.Generator().manual_seed(3), **rules)
    return net, optimizer, engine


def count_short_steps(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    taken: list[bool] = []
    assess = Again.assess

    def counted(self: Again) -> bool:
        taken.append(assess(self))
        return taken[-1]

    monkeypatch.setattr(Again, "assess", counted)
    return taken


@pytest.mark.parametrize("utility", ["contribution", "adaptable_contribution", "weight", "adaptation"])
@pytest.mark.parametrize("accumulate", [True, False])
def test_the_short_way_is_the_long_one(utility: str, accumulate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = count_short_steps(monkeypatch)
    runs = [built(utility=utility, accumulate=accumulate) for _ in range(2)]
    for t in range(80):
        for number, (net, optimizer, engine) in enumerate(runs):
            learn(net, optimizer, draw(t))
            if number == 1:
                engine._again = None
            engine.step()
    assert taken == [True] * 79
    assert sum(replaced(runs[0][2])) > 10
    assert_same(everything(*runs[0]), everything(*runs[1]))


@pytest.mark.parametrize("kind", [CBPSGD, CBPAdam])
def test_an_attached_engine_takes_it_too(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = count_short_steps(monkeypatch)
    runs = []
    for _ in range(2):
        net = mlp(5, 9, 7, 2)
        runs.append((net, kind(net, kernels=True, replacement_rate=0.05, maturity_threshold=4,
                               generator=torch.Generator().manual_seed(3))))  # fmt: skip
    for t in range(60):
        for number, (net, optimizer) in enumerate(runs):
            if number == 1:
                optimizer.gnt._again = None
            learn(net, optimizer, draw(t))
    assert taken == [True] * 59
    assert_same(everything(*runs[0], runs[0][1].gnt), everything(*runs[1], runs[1][1].gnt))


def twice(net: nn.Module, _: gnt.GnT) -> None:
    net(draw(100))


def strided(net: nn.Module, _: gnt.GnT) -> None:
    net[1].register_forward_hook(lambda module, args, output: output.t().contiguous().t())


def doubled(net: nn.Module, _: gnt.GnT) -> None:
    net.double()


def loaded(_: nn.Module, engine: gnt.GnT) -> None:
    engine.load_state_dict(engine.state_dict())


def transposed(net: nn.Module, _: gnt.GnT) -> None:
    net[2].weight.data = net[2].weight.data.t().contiguous().t()


def nothing(net: nn.Module, _: gnt.GnT) -> None:
    """The next batch is of another size."""


@pytest.mark.parametrize("change", [twice, strided, doubled, loaded, transposed, nothing])
def test_where_anything_differs_the_long_way_is_taken(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = count_short_steps(monkeypatch)
    runs = [built() for _ in range(2)]
    for number, (net, optimizer, engine) in enumerate(runs):
        for t in range(20):
            learn(net, optimizer, draw(t))
            engine.step()
        taken.clear()
        change(net, engine)
        for t in range(20, 40):
            learn(net, optimizer, draw(t, 3 if change is nothing else 4, next(net.parameters()).dtype))
            if number == 1:
                engine._again = None
            engine.step()
        if number == 0:
            assert taken.count(True) < 20
    assert_same(everything(*runs[0]), everything(*runs[1]))


def test_features_in_half_precision_are_read_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = count_short_steps(monkeypatch)
    runs = [built(kernels=kernels, replacement_rate=0.0) for kernels in (True, False)]
    for t in range(10):
        for net, optimizer, engine in runs:
            with torch.autocast("cpu", torch.bfloat16):
                net(draw(t)).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            engine.step()
    assert True not in taken
    for mine, theirs in zip(runs[0][2].groups, runs[1][2].groups, strict=True):
        torch.testing.assert_close(mine.state.utility, theirs.state.utility)


def test_errors_are_those_of_the_long_way() -> None:
    net, optimizer, engine = built()
    for t in range(5):
        learn(net, optimizer, draw(t))
        engine.step()
    with pytest.raises(RuntimeError, match="no features of group '0', '2'"):
        engine.step()
    before = engine.state_dict()
    net(draw(9) * float("nan"))
    with pytest.raises(FloatingPointError, match="group '0' are not finite"):
        engine.step()
    assert_same(engine.state_dict(), before)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.step()
