"""Hooks around AdamGnT's step, and what a profiler sees: as of any torch optimizer, although the wrapper is another."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile

from gnt.optim import AdamGnT, CBPAdam


class Mine(AdamGnT):
    """A step of one's own around the step."""

    def step(self, closure=None):
        self.stepped = getattr(self, "stepped", 0) + 1
        return super().step(closure)


class Adam(torch.optim.Adam):
    """torch's, with fewer places where hooks could be called twice."""


def one(kind):
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    return kind([param])


@pytest.mark.parametrize("kind", [AdamGnT, Mine, Adam])
@pytest.mark.parametrize("closure", [None, lambda: 1.5])
@pytest.mark.parametrize("pre", [False, True])
def test_hooks_are_called_once_and_in_order(kind, closure, pre):
    one(AdamGnT)  # torch wraps the step of a class with its first instance
    optimizer = one(kind)
    calls = []

    def noting(what):
        return lambda *args: calls.append((what, *args))

    handles = [register_optimizer_step_post_hook(noting("after, globally"))]
    optimizer.register_step_post_hook(noting("after"))
    if pre:
        handles.append(register_optimizer_step_pre_hook(noting("before, globally")))
        optimizer.register_step_pre_hook(noting("before"))
    given = () if closure is None else (closure,)
    try:
        assert optimizer.step(*given) == (None if closure is None else 1.5)
    finally:
        for handle in handles:
            handle.remove()
    order = ["before, globally", "before"] * pre + ["after", "after, globally"]
    assert calls == [(what, optimizer, (optimizer, *given), {}) for what in order]


def test_a_hook_before_the_step_may_change_its_arguments():
    optimizer = one(AdamGnT)
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: ((args[0], lambda: 2.5), kwargs))
    assert optimizer.step() == 2.5


@pytest.mark.parametrize("kind", [AdamGnT, Mine])
def test_a_profiler_sees_the_step_by_its_name(kind):
    optimizer = one(kind)
    optimizer.register_step_post_hook(lambda *args: torch.ones(3).cosh())
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        optimizer.step()
    names = [event.key for event in seen.key_averages()]
    assert f"Optimizer.step#{kind.__name__}.step" in names
    assert "aten::cosh" in names


def test_a_scheduler_knows_that_a_step_was_taken():
    optimizer = one(AdamGnT)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step()
    scheduler.step()  # it warns, which would be an error, if it had not seen a step
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_an_engine_acts_once_after_each_step_of_a_subclass():
    class MyCBPAdam(CBPAdam):
        def step(self, closure=None):
            return super().step(closure)

    for kind in (CBPAdam, MyCBPAdam):
        net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        optimizer = kind(net, replacement_rate=0.0)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.ones(2, 3)).sum().backward()
            optimizer.step()
        assert optimizer.gnt.groups[0].state.age.tolist() == [3] * 4
