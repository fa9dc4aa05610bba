"""Bytes of state that optimizer and engine keep, per parameter and per hidden unit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import gnt
from gnt.optim import AdamGnT

from .step_runners import STEP_SIZE, StepRunner, loop
from .workloads import WORKLOADS, Workload

NETWORKS = ("784-2000x3-10, batch 1", "20-5-1, batch 1", "ConvNet 32-64-128, batch 100")
MODES: dict[str, dict[str, Any]] = {
    "": {},
    ", torch operations": {"kernels": False},
}  # suffix of the name -> options


def measure_memory() -> list[dict[str, Any]]:
    """Bytes of state on some networks: torch's Adam, AdamGnT before and after resets, the engine.

    ``bytes_per_parameter`` counts tensors with one number per element of a parameter; ``bytes_per_unit`` counts all
    others, divided by the number of hidden units.
    """
    return [row for one in WORKLOADS if one.name in NETWORKS for row in _of_network(one)]


def _of_network(workload: Workload) -> list[dict[str, Any]]:
    def add(name: str, runner: StepRunner) -> None:
        rows.append(_row(workload, runner, name, *optimizer_tensors(runner)))

    rows: list[dict[str, Any]] = []
    add("torch Adam", _stepped(loop(workload, partial(_optimizer, torch.optim.Adam))))
    for suffix, options in MODES.items():
        make_optimizer = partial(_optimizer, AdamGnT, **options)
        add(f"AdamGnT, never reset{suffix}", _stepped(loop(workload, make_optimizer)))
        reset = _stepped(loop(workload, make_optimizer, gnt.GnT))
        reset.force_replacement()
        add(f"AdamGnT, after resets{suffix}", _stepped(reset))
    for suffix, options in MODES.items():
        runner = _stepped(loop(workload, partial(_optimizer, torch.optim.SGD), partial(gnt.GnT, **options)))
        rows.append(_row(workload, runner, f"engine{suffix}", [], engine_tensors(runner)))
    return rows


def _optimizer(cls: Any, net: nn.Module, **options: Any) -> Any:
    return cls(net.parameters(), lr=STEP_SIZE, **options)


def _stepped(runner: StepRunner) -> StepRunner:
    runner.step()
    return runner


def _row(
    workload: Workload, runner: StepRunner, name: str, elementwise: Iterable[Tensor], others: Iterable[Tensor]
) -> dict[str, Any]:
    (net,) = runner.nets
    for_parameters, for_units = held_bytes(elementwise), held_bytes(others)
    return {
        "network": workload.name.partition(",")[0],
        "state": name,
        "bytes": for_parameters + for_units,
        "bytes_per_parameter": for_parameters / sum(param.numel() for param in net.parameters()),
        "bytes_per_unit": for_units / sum(group.num_units for group in gnt.walk(net)),
    }


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of these tensors; shared storages count once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


def optimizer_tensors(runner: StepRunner) -> tuple[list[Tensor], list[Tensor]]:
    """All tensors of the optimizer, as (floating-point tensors of their parameter's shape, all others)."""
    elementwise: list[Tensor] = []
    others: list[Tensor] = []
    for param, state in runner.optimizer.state.items():
        for value in state.values():
            if isinstance(value, Tensor):
                # step counts per row of a bias have its shape as well, but are integers
                whole = value.is_floating_point() and value.shape == param.shape
                (elementwise if whole else others).append(value)
    beside = {name: value for name, value in vars(runner.optimizer).items() if name not in ("state", "param_groups")}
    return elementwise, [*others, *_reachable(beside, runner)]


def engine_tensors(runner: StepRunner) -> list[Tensor]:
    """All tensors of the engine."""
    return list(_reachable(runner.engine, runner))


def _reachable(root: Any, runner: StepRunner) -> Iterator[Tensor]:
    """Tensors reachable through containers and gnt's objects, except weights, gradients and optimizer state."""
    excluded = {tensor.untyped_storage().data_ptr() for tensor in runner.tensors()}
    seen: set[int] = set()
    waiting: list[Any] = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            if one.untyped_storage().data_ptr() not in excluded:
                yield one
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, deque)):
            waiting += list(one)
        elif type(one).__module__.partition(".")[0] == "gnt" and not isinstance(
            one, (nn.Module, torch.optim.Optimizer)
        ):
            slots = [name for cls in type(one).__mro__ for name in getattr(cls, "__slots__", ())]
            waiting += [*getattr(one, "__dict__", {}).values(), *(getattr(one, name, None) for name in slots)]
