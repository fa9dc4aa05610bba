"""Learners with a compiled step and the same learners without, and graphs that run uncompiled."""

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
    """Run captured graphs operation by operation, without the compiler. Returns the number of nodes of each graph."""
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
    """Two learners on copies of the network: one that runs eagerly and one with a compiled step."""
    if kind is gnt.ContinualBackprop:
        settings = {**FREQUENT_REPLACEMENT, **settings}
    learners = []
    for compiled in (False, True):
        own = settings
        if kind is gnt.ContinualBackprop:
            own = {**settings, "generator": torch.Generator().manual_seed(5)}
        opt = own.get("opt")
        copied = copy.deepcopy(net)
        resolved = {**own, "opt": opt(copied.parameters())} if callable(opt) else own
        learners.append(kind(copied, compile=compiled, **resolved))
    return learners[0], learners[1]


def with_methods(
    net: nn.Module,
    *makers: Callable[[Any, torch.optim.Optimizer], Any],
    kind: type[Learner] = gnt.Backprop,
    **settings: Any,
) -> tuple[Any, Any]:
    """As `eager_and_compiled`, each with methods of its own, which are made for its network and optimizer."""
    learners = eager_and_compiled(net, kind, **settings)
    for learner in learners:
        learner.methods = [make(learner.net, learner.opt) for make in makers]
    return learners


def samples(t: int, net: nn.Module, *shape: int, n: int = 8) -> tuple[Tensor, Tensor]:
    """`batch` in the dtype of the network."""
    dtype = next(net.parameters()).dtype
    x, y = batch(t, *shape, n=n)
    return x.to(dtype), y.to(dtype)


def state(learner: Learner) -> dict[str, Any]:
    """A copy of the learner's state_dict."""
    return copy.deepcopy(learner.state_dict())


def assert_states_close(eager: Learner, graph: Learner, *, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    """Assert that two learners have the same state up to rounding."""
    _assert_close(state(graph), state(eager), rtol, atol, "state")


def _assert_close(actual: Any, expected: Any, rtol: float, atol: float, path: str) -> None:
    assert type(actual) is type(expected), path
    if isinstance(actual, dict):
        assert set(actual) == set(expected), f"{path}: {list(actual)}, {list(expected)}"
        for key in actual:
            _assert_close(actual[key], expected[key], rtol, atol, f"{path}[{key!r}]")
    elif isinstance(actual, (list, tuple)):
        assert len(actual) == len(expected), path
        for number, (a, b) in enumerate(zip(actual, expected, strict=True)):
            _assert_close(a, b, rtol, atol, f"{path}[{number}]")
    elif isinstance(actual, (Tensor, float)):
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, msg=lambda text: f"{path}: {text}")
    else:
        assert actual == expected, path


def run_both(eager: Learner, graph: Learner, steps: range, *shape: int, n: int = 8) -> int:
    """Train both learners; assert equal losses, outputs and replaced units. Returns the number of replaced units."""
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
