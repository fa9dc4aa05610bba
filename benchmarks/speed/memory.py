"""What optimizer and engine keep: bytes of the tensors themselves, per parameter and per hidden unit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import gnt
from benchmarks.speed.runners import Runner, loop
from benchmarks.speed.workloads import WORKLOADS, Workload
from gnt.optim import AdamGnT

NETWORKS = ("784-2000x3-10, batch 1", "20-5-1, batch 1", "ConvNet 32-64-128, batch 100")
_KEPT_ONCE = (dict, list, tuple, set, deque)


def measure_memory() -> list[dict[str, Any]]:
    """Bytes of state on some networks: torch's Adam, AdamGnT before and after resets, the engine.

    ``bytes_per_parameter`` counts tensors with a number for each element; ``bytes_per_unit`` all others, divided by
    the number of hidden units.
    """
    return [row for one in WORKLOADS if one.name in NETWORKS for row in _of_network(one)]


def _of_network(workload: Workload) -> list[dict[str, Any]]:
    def adam(kind: Any, net: nn.Module) -> Any:
        return kind(net.parameters(), lr=1e-6)

    fresh = loop(workload, partial(adam, torch.optim.Adam))
    never = loop(workload, partial(adam, AdamGnT))
    after = loop(workload, partial(adam, AdamGnT), gnt.GnT)
    for runner in (fresh, never, after):
        runner.step()
    after.force_replacement()
    after.step()
    return [
        _row(workload, fresh, "torch Adam", *optimizer_tensors(fresh.optimizer)),
        _row(workload, never, "AdamGnT, never reset", *optimizer_tensors(never.optimizer)),
        _row(workload, after, "AdamGnT, after resets", *optimizer_tensors(after.optimizer)),
        _row(workload, after, "engine", [], engine_tensors(after)),
    ]


def _row(
    workload: Workload, runner: Runner, name: str, elementwise: Iterable[Tensor], others: Iterable[Tensor]
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
    """Bytes of memory that these tensors keep; what several share counts once, as the whole."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[list[Tensor], list[Tensor]]:
    """The optimizer's state -> (floating-point tensors of their parameter's shape, all others)."""
    elementwise: list[Tensor] = []
    others: list[Tensor] = []
    for param, state in optimizer.state.items():
        for value in state.values():
            if isinstance(value, Tensor):
                # counts of a bias's rows have its shape as well, but they are integers
                whole = value.is_floating_point() and value.shape == param.shape
                (elementwise if whole else others).append(value)
    return elementwise, others


def engine_tensors(runner: Runner) -> Iterator[Tensor]:
    """Every tensor that can be reached from the engine by way of gnt's own objects, but for the network's and the
    optimizer's.
    """
    theirs = {tensor.untyped_storage().data_ptr() for tensor in runner.tensors()}
    seen: set[int] = set()
    waiting: list[Any] = [runner.engine]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            if one.untyped_storage().data_ptr() not in theirs:
                yield one
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, _KEPT_ONCE):
            waiting += list(one)
        elif type(one).__module__.partition(".")[0] == "gnt" and not isinstance(
            one, (nn.Module, torch.optim.Optimizer)
        ):
            slots = (getattr(one, name, None) for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ()))
            waiting += [*getattr(one, "__dict__", {}).values(), *slots]
