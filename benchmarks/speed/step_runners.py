"""What is timed: for each way to train, a function that does one full step, and what it left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import gnt
from benchmarks.seeds import stream
from benchmarks.speed.networks import LOSSES, batches, fresh_net, make_net
from benchmarks.speed.workloads import Workload

REPLACEMENT_RATE = 1e-4
# So small that units neither die nor come to life while they are timed: the thousandth step costs what the first did.
STEP_SIZE = 1e-6


@dataclass
class StepRunner:
    """One entrant in one workload.

    Attributes:
        step: does one step.
        nets: the networks that it trains.
        optimizer: the optimizer, if there is one.
        engine: the engine, if there is one.
        share: how many of these steps make one step of the workload (members that are trained one after another).
    """

    step: Callable[[], object]
    nets: list[nn.Module] = field(default_factory=list)
    optimizer: Any = None
    engine: Any = None
    share: int = 1

    @property
    def replaced(self) -> int:
        """Units replaced so far."""
        return sum(group.state.replaced for group in self.engine.groups) if self.engine is not None else 0

    def force_replacement(self) -> None:
        """Replace a unit of each group, so that whatever is kept from a first replacement on is there."""
        if self.engine is not None:
            self.engine.replace([torch.tensor([0]) for _ in self.engine.groups])

    def tensors(self) -> Iterator[Tensor]:
        """Weights, gradients and the optimizer's state."""
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
) -> StepRunner:
    """A plain training loop; ``make_engine``: of an engine that is stepped by hand."""
    net, data, loss = make_net(workload), batches(workload), LOSSES[workload.loss]
    optimizer = make_optimizer(net)
    forward = wrap(net)

    def step() -> None:
        x, y = next(data)
        optimizer.zero_grad()
        loss(forward(x), y).backward()
        optimizer.step()

    if make_engine is None:
        return StepRunner(step, [net], optimizer, getattr(optimizer, "gnt", None))
    engine = make_engine(net, optimizer)

    def step_and_test() -> None:
        x, y = next(data)
        optimizer.zero_grad()
        loss(forward(x), y).backward()
        optimizer.step()
        engine.step()

    return StepRunner(step_and_test, [net], optimizer, engine)


def learner(workload: Workload, kind: Any, opt: str, **settings: Any) -> StepRunner:
    """A learner's `learn`; of several members, that of one of them."""
    net, data = make_net(workload), batches(workload)
    if kind is gnt.ContinualBackprop:
        settings = {**engine_settings(workload), **settings}
    one = kind(net, loss=workload.loss, opt=opt, step_size=STEP_SIZE, **settings)
    return StepRunner(lambda: one.learn(*next(data)), [net], one.opt, getattr(one, "gnt", None), share=workload.members)


def ensemble(workload: Workload, opt: str, **options: Any) -> StepRunner:
    """All members of an ensemble at once."""
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
    """The optimizer's step on gradients that stay; ``resets``: after the replacement of a unit of each group."""
    net = make_net(workload)
    optimizer = make_optimizer(net)
    for param in net.parameters():
        param.grad = torch.randn(param.shape, generator=stream(0, "gradients")) * 1e-3
    optimizer.step()
    if resets:
        gnt.GnT(net, optimizer, record=False).replace([torch.tensor([0]) for _ in gnt.walk(net)])
    return StepRunner(optimizer.step, [net], optimizer)
