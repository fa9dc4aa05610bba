"""Learners whose step is one graph, beside the same ones without; and graphs that run as they were traced."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnt
from gnt.learners._compile import compiler
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, batch

Learner = gnt.Backprop


def run_graphs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let graphs run as they are, operation by operation: what is compiled is the compiler's affair. Counts them."""
    sizes: list[int] = []

    def interpreted(graph: torch.fx.GraphModule, examples: Any) -> Callable[..., Any]:
        sizes.append(len(graph.graph.nodes))
        return torch.no_grad()(graph)

    monkeypatch.setattr(compiler, "_compile", interpreted)
    monkeypatch.setattr(compiler, "_cache", type(compiler._cache)())
    return sizes


def eager_and_compiled(
    net: nn.Module, kind: type[Learner] = gnt.ContinualBackprop, **settings: Any
) -> tuple[Learner, Learner]:
    """A learner without compilation and one with, on copies of the network."""
    if kind is gnt.ContinualBackprop:
        settings = {**FREQUENT_REPLACEMENT, **settings}
    learners = []
    for compiled in (False, True):
        own = settings
        if kind is gnt.ContinualBackprop:
            own = {**settings, "generator": torch.Generator().manual_seed(5)}
        opt = own.get("opt")
        mine = copy.deepcopy(net)
        made = {**own, "opt": opt(mine.parameters())} if callable(opt) else own
        learners.append(kind(mine, compile=compiled, **made))
    return learners[0], learners[1]


def samples(t: int, net: nn.Module, *shape: int, n: int = 8) -> tuple[Tensor, Tensor]:
    """`batch` in the dtype of the network."""
    dtype = next(net.parameters()).dtype
    x, y = batch(t, *shape, n=n)
    return x.to(dtype), y.to(dtype)


def state(learner: Learner) -> dict[str, Any]:
    """All that a learner keeps; counts that never restarted stand as zeros in both."""
    return copy.deepcopy(learner.state_dict())


def assert_states_close(eager: Learner, graph: Learner, *, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    """The same state, but for rounding."""
    _close(state(graph), state(eager), rtol, atol, "state")


def _close(mine: Any, other: Any, rtol: float, atol: float, at: str) -> None:
    assert type(mine) is type(other), at
    if isinstance(mine, dict):
        assert set(mine) == set(other), f"{at}: {list(mine)}, {list(other)}"
        for key in mine:
            _close(mine[key], other[key], rtol, atol, f"{at}[{key!r}]")
    elif isinstance(mine, (list, tuple)):
        assert len(mine) == len(other), at
        for number, (a, b) in enumerate(zip(mine, other, strict=True)):
            _close(a, b, rtol, atol, f"{at}[{number}]")
    elif isinstance(mine, (Tensor, float)):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol, msg=lambda text: f"{at}: {text}")
    else:
        assert mine == other, at


def run_both(eager: Learner, graph: Learner, steps: range, *shape: int, n: int = 8) -> int:
    """The same steps for both; the same losses and the same units replaced. Returns how many."""
    total = 0
    for t in steps:
        torch.manual_seed(t)
        a = eager.learn(*samples(t, eager.net, *shape, n=n))
        torch.manual_seed(t)
        b = graph.learn(*samples(t, graph.net, *shape, n=n))
        torch.testing.assert_close((b.loss, b.output), (a.loss, a.output))
        assert [u.tolist() for u in a.replaced] == [u.tolist() for u in b.replaced], f"step {t}"
        total += sum(map(len, a.replaced))
    return total
