"""The wrapper of AdamGnT's step runs hooks and appears in profiles like torch's own wrapper."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile

from gnt.optim import AdamGnT, CBPAdam


class CountingAdam(AdamGnT):
    """A subclass whose step calls the inherited one."""

    def step(self, closure=None):
        self.stepped = getattr(self, "stepped", 0) + 1
        return super().step(closure)


class TorchAdam(torch.optim.Adam):
    """A subclass of torch's Adam, which torch wraps with its first instance."""


def with_gradient(kind):
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    return kind([param])


@pytest.mark.parametrize("kind", [AdamGnT, CountingAdam, TorchAdam])
@pytest.mark.parametrize("closure", [None, lambda: 1.5])
@pytest.mark.parametrize("pre", [False, True])
def test_hooks_are_called_once_and_in_order(kind, closure, pre):
    with_gradient(AdamGnT)  # torch wraps the step of a class with its first instance
    optimizer = with_gradient(kind)
    calls = []

    def recorder(name):
        return lambda *args: calls.append((name, *args))

    handles = [register_optimizer_step_post_hook(recorder("after, global"))]
    optimizer.register_step_post_hook(recorder("after"))
    if pre:
        handles.append(register_optimizer_step_pre_hook(recorder("before, global")))
        optimizer.register_step_pre_hook(recorder("before"))
    given = () if closure is None else (closure,)
    try:
        assert optimizer.step(*given) == (None if closure is None else 1.5)
    finally:
        for handle in handles:
            handle.remove()
    order = ["before, global", "before"] * pre + ["after", "after, global"]
    assert calls == [(name, optimizer, (optimizer, *given), {}) for name in order]


def test_a_hook_before_the_step_may_change_its_arguments():
    optimizer = with_gradient(AdamGnT)
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: ((args[0], lambda: 2.5), kwargs))
    assert optimizer.step() == 2.5
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: 3)
    with pytest.raises(RuntimeError, match=r"must return None or \(new_args, new_kwargs\), got 3"):
        optimizer.step()


@pytest.mark.parametrize("kind", [AdamGnT, CountingAdam])
def test_a_profile_shows_the_step_by_its_name(kind):
    optimizer = with_gradient(kind)
    optimizer.register_step_post_hook(lambda *args: torch.ones(3).cosh())
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        optimizer.step()
    names = [event.key for event in recorded.key_averages()]
    assert f"Optimizer.step#{kind.__name__}.step" in names
    assert "aten::cosh" in names


def test_a_scheduler_detects_the_step():
    optimizer = with_gradient(AdamGnT)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step()
    scheduler.step()  # warns, which is an error here, if it has not detected a step
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_an_engine_runs_once_after_each_step_of_a_subclass():
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
