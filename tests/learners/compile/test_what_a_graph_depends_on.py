"""Compiled learners do what the eager ones do with losses that learn, changed optimizers, and wrong indices."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import gnt
from tests.helpers.compiled_learners import eager_and_compiled, run_both, run_graphs_uncompiled, samples
from tests.helpers.small_runs import mlp


def train(learner: gnt.Backprop, steps: range) -> None:
    for t in steps:
        learner.learn(*samples(t, learner.net))


class Scaled(nn.Module):
    """A loss with a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output * self.log_scale.exp(), target)


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, gnt.AdamGnT])
def test_the_parameters_of_a_loss_are_trained(monkeypatch: pytest.MonkeyPatch, kind: Any, hooked: bool) -> None:
    run_graphs_uncompiled(monkeypatch)
    scales = []
    for compiled in (False, True):
        net, loss = mlp(), Scaled()
        if hooked:
            loss.log_scale.register_hook(lambda grad: grad / 2)
        opt = kind([*net.parameters(), *loss.parameters()], lr=0.1)
        learner = gnt.Backprop(net, loss=loss, opt=opt, compile=compiled)
        train(learner, range(5))
        scales.append(loss.log_scale.item())
    assert scales[0] == pytest.approx(scales[1], rel=1e-5)
    assert abs(scales[0]) > 0.15


@pytest.mark.parametrize("swapped", [False, True])
def test_other_parameters_in_the_groups_of_an_optimizer_are_trained(
    monkeypatch: pytest.MonkeyPatch, swapped: bool
) -> None:
    run_graphs_uncompiled(monkeypatch)
    eager, graph = eager_and_compiled(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), gnt.Backprop)
    for learner in (eager, graph):
        first, second = ([*layer.parameters()] for layer in learner.net)
        groups: list[Any] = [{"params": first, "lr": 0.1}, *([{"params": second, "lr": 0.0}] if swapped else [])]
        learner.opt = torch.optim.SGD(groups)
    run_both(eager, graph, range(3))
    for learner in (eager, graph):
        first, second = ([*layer.parameters()] for layer in learner.net)
        before = [each.clone() for each in first]
        learner.opt.param_groups[0]["params"] = second
        if swapped:
            learner.opt.param_groups[1]["params"] = first
        train(learner, range(3, 6))
        assert all(map(torch.equal, before, first))
    for a, b in zip(eager.net.parameters(), graph.net.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_hooks_of_all_optimizers_and_a_wrapped_step_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    run_graphs_uncompiled(monkeypatch)
    importlib.import_module("torch.profiler")  # has a hook of its own
    graph = gnt.Backprop(mlp(), step_size=0.1, compile=True)
    calls: list[str] = []
    handle = register_optimizer_step_post_hook(lambda *_: calls.append("hook"))
    try:
        train(graph, range(3))
    finally:
        handle.remove()
    assert calls == ["hook"] * 3
    step = graph.opt.step

    def counted(*arguments: Any) -> Any:
        calls.append("step")
        return step(*arguments)

    graph.opt.step = counted  # type: ignore[method-assign]
    train(graph, range(3))
    assert calls[3:] == ["step"] * 3
    del graph.opt.step
    torch.optim.lr_scheduler.StepLR(graph.opt, 5)  # patches the step, too
    train(graph, range(3))
    assert graph.net[0].weight.grad is None  # the optimizer's step is part of the graph again


def labels(threads: int, monkeypatch: pytest.MonkeyPatch) -> tuple[gnt.ContinualBackprop, list[int]]:
    """A compiled classifier with dropout after steps with the classes 0 to 2 of 5."""
    run_graphs_uncompiled(monkeypatch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 5))
    graph = gnt.ContinualBackprop(net, loss="cross_entropy", utility="random", compile=True)
    eager_steps: list[int] = []
    run = graph._step.run
    monkeypatch.setattr(graph._step, "run", lambda x, y: (eager_steps.append(int(y.max())), run(x, y))[1])
    for _ in range(3):
        graph.learn(torch.randn(3, 4), torch.tensor([0, 1, 2]))
    return graph, eager_steps


@pytest.mark.parametrize("threads", [1, 2])
def test_a_wrong_class_is_refused_and_nothing_changes(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    graph, _ = labels(threads, monkeypatch)
    assert graph.gnt is not None
    generators = [torch.default_generator, graph.gnt.generator]
    before = [each.get_state() for each in generators]
    weights = [each.clone() for each in graph.net.parameters()]
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        graph.learn(torch.randn(3, 4, generator=torch.Generator()), torch.tensor([0, 1, 5]))
    assert all(torch.equal(each.get_state(), state) for each, state in zip(generators, before, strict=True))
    assert all(map(torch.equal, weights, graph.net.parameters()))


def test_classes_that_are_new_run_eagerly_once_where_threads_would_end_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, eager_steps = labels(2, monkeypatch)
    for _ in range(3):
        graph.learn(torch.randn(3, 4), torch.tensor([0, 4, 2]))
    assert eager_steps == [2, 4]
