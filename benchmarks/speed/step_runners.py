"""Builders of runners: for each way to train, a function that does one full step, and access to its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import gnt
from gnt.names import OptimizerName

from ..seeds import stream
from .networks import LOSSES, batches, fresh_net, make_net
from .workloads import Workload

REPLACEMENT_RATE = 1e-4
# So small that units do not die or revive during the measurement: all steps cost the same.
STEP_SIZE = 1e-6


@dataclass
class StepRunner:
    """One variant on one workload.

    Attributes:
        step: does one step.
        nets: the networks that it trains.
        optimizer: the optimizer, if there is one.
        engine: the engine, if there is one.
        share: number of these steps that make one step of the workload (for members that are trained one after
            another); below 1 if ``step`` does several.
    """

    step: Callable[[], object]
    nets: list[nn.Module] = field(default_factory=list)
    optimizer: Any = None
    engine: Any = None
    share: float = 1

    @property
    def replaced(self) -> int:
        """Number of units replaced so far."""
        return sum(group.state.replaced for group in self.engine.groups) if self.engine is not None else 0

    def force_replacement(self) -> None:
        """Replace one unit of each group, so that all state that replacement creates exists."""
        if self.engine is not None:
            self.engine.replace([torch.tensor([0], device=g.state.born.device) for g in self.engine.groups])

    def tensors(self) -> Iterator[Tensor]:
        """Weights, gradients and optimizer state."""
        for net in self.nets:
            for param in net.parameters():
                yield param.detach()
                if param.grad is not None:
                    yield param.grad
        if self.optimizer is not None:
            for state in self.optimizer.state.values():
                yield from (value for value in state.values() if isinstance(value, Tensor))


def engine_settings(workload: Workload) -> dict[str, Any]:
    """Settings of every engine."""
    return {
        "replacement_rate": REPLACEMENT_RATE,
        "maturity_threshold": workload.maturity,
        "generator": stream(0, "replacements"),
    }


def loop(
    workload: Workload,
    make_optimizer: Callable[[nn.Module], Any],
    make_engine: Callable[[nn.Module, Any], Any] | None = None,
    wrap: Callable[[nn.Module], Any] = lambda net: net,
    steps: int = 1,
) -> StepRunner:
    """A plain training loop.

    Args:
        workload: the workload.
        make_optimizer: network -> optimizer.
        make_engine: network, optimizer -> engine, which is stepped explicitly; None: no engine, or one in the
            optimizer.
        wrap: network -> what is called in the forward pass.
        steps: steps that are timed together, because not all do the same.
    """
    net, data, loss = make_net(workload), batches(workload), LOSSES[workload.loss]
    optimizer = make_optimizer(net)
    forward = wrap(net)

    def step() -> None:
        x, y = next(data)
        optimizer.zero_grad()
        loss(forward(x), y).backward()
        optimizer.step()

    def several() -> None:
        for _ in range(steps):
            step()

    if make_engine is None:
        run = step if steps == 1 else several
        return StepRunner(run, [net], optimizer, getattr(optimizer, "gnt", None), share=1 / steps)
    engine = make_engine(net, optimizer)

    def step_and_test() -> None:
        x, y = next(data)
        optimizer.zero_grad()
        loss(forward(x), y).backward()
        optimizer.step()
        engine.step()

    return StepRunner(step_and_test, [net], optimizer, engine)


def masked(
    workload: Workload,
    make_optimizer: Callable[[nn.Module], Any],
    kind: Any,
    *,
    tasks: int,
    steps: int = 1,
    **settings: Any,
) -> StepRunner:
    """The training loop of a task under masks, after tasks of one step each.

    Args:
        workload: the workload.
        make_optimizer: network -> optimizer.
        kind: `gnt.HAT`, `gnt.AdaHAT` or `gnt.FGAdaHAT`.
        tasks: number of the task that is timed, from 1.
        steps: steps that are timed together, because not all do the same.
        settings: those of ``kind``.
    """
    net, data, loss = make_net(workload), batches(workload), LOSSES[workload.loss]
    hat = kind(net, gnt.walk(net), generator=stream(0, "masks"), **settings)
    optimizer = make_optimizer(net)

    def step() -> None:
        x, y = next(data)
        if isinstance(hat, gnt.FGAdaHAT):
            hat.observe(x, y)
        optimizer.zero_grad()
        (loss(net(x), y) + hat.penalty()).backward()
        optimizer.step()

    def several() -> None:
        for _ in range(steps):
            step()

    for task in range(1, tasks + 1):
        hat.begin(task, optimizer, steps_per_epoch=100)
        step()
        if task < tasks:
            hat.end()
    return StepRunner(step if steps == 1 else several, [net], optimizer, share=1 / steps)


def learner(workload: Workload, cls: Any, opt: OptimizerName, **settings: Any) -> StepRunner:
    """A learner's `learn`. For a workload with several members, that of one of them."""
    net, data = make_net(workload), batches(workload)
    if cls is gnt.ContinualBackprop:
        settings = {**engine_settings(workload), **settings}
    one = cls(net, loss=workload.loss, opt=opt, step_size=STEP_SIZE, **settings)
    return StepRunner(lambda: one.learn(*next(data)), [net], one.opt, getattr(one, "gnt", None), share=workload.members)


def ensemble(workload: Workload, opt: OptimizerName, **options: Any) -> StepRunner:
    """An ensemble of all members."""
    settings = {name: value for name, value in engine_settings(workload).items() if name != "generator"}
    data = batches(workload, lead=(workload.members,))
    members = gnt.Ensemble(
        lambda: fresh_net(workload.net),
        range(workload.members),
        loss=workload.loss,
        opt=opt,
        step_size=STEP_SIZE,
        **settings,
        **options,
    )
    return StepRunner(lambda: members.learn(*next(data)), [members.net], members.opt, members.gnt)


def optimizer_alone(
    workload: Workload, make_optimizer: Callable[[nn.Module], Any], *, resets: bool = False
) -> StepRunner:
    """The optimizer's step alone, on constant gradients. ``resets``: after the replacement of one unit of each
    group.
    """
    net = make_net(workload)
    optimizer = make_optimizer(net)
    for param in net.parameters():
        param.grad = torch.randn(param.shape, generator=stream(0, "gradients")) * 1e-3
    optimizer.step()
    if resets:
        gnt.GnT(net, optimizer, record=False).replace([torch.tensor([0]) for _ in gnt.walk(net)])
    return StepRunner(optimizer.step, [net], optimizer)
