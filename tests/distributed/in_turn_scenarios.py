"""Scenario in which each rank runs other layers of the network in each step, or none, run by each rank."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.distributed import worker
from tests.helpers.tasks_in_turn import TasksInTurn

ALL_TASKS = (0, 1, 2, 3)
Tasks = list[int] | None  # what one rank runs in a step; None: no forward at all


def schedule(steps: int, world: int, *, may_rest: bool) -> list[list[Tasks]]:
    """For each step and rank the tasks: often other ones on each rank, and groups that no rank uses.

    With ``may_rest`` there are steps in which some ranks, or all, run nothing.
    """
    source = random.Random(0)
    choices: list[Tasks] = [[0], [1], [2], [3], [0, 1], [3, 2], *([None] * may_rest)]
    some = [source.sample(choices, world) if t % 3 else [source.choice(choices)] * world for t in range(steps)]
    return [[[0]] * world, *some]


def in_turn(folder: Path) -> Any:
    """Train on all ranks together, and on each rank a single-process run on the joined batches."""
    return {
        "ddp": _in_turn("contribution", ddp=True),
        "averaged by hand": _in_turn("adaptable_contribution", ddp=False),
        "measured in every third update": _in_turn("adaptable_contribution", ddp=False, measure_every=3),
    }


def _in_turn(utility: str, *, ddp: bool, measure_every: int = 1) -> Any:
    rank, world = dist.get_rank(), dist.get_world_size()
    net, single_net = TasksInTurn(), TasksInTurn()
    model = DistributedDataParallel(net, find_unused_parameters=True) if ddp else net
    opt, single_opt = (worker.OPTIMIZERS["adam_gnt"](n) for n in (net, single_net))
    settings: dict[str, Any] = {"utility": utility, "seed": 7, "replacement_rate": 0.05}
    settings["measure_every"] = measure_every
    engine = worker.engine(net.groups(ALL_TASKS), opt, **settings)
    single = worker.engine(single_net.groups(ALL_TASKS), single_opt, process_group=False, **settings)
    source, replaced_units = torch.Generator().manual_seed(3), []
    for tasks in schedule(100, world, may_rest=not ddp):
        batches = [torch.randn(3 + i, 4, generator=source, dtype=torch.float64) for i in range(world)]
        opt.zero_grad()
        _backward(model, batches[rank], tasks[rank])
        if not ddp:
            _average_gradients(net)
        opt.step()
        single_opt.zero_grad()
        for batch, ran in zip(batches, tasks, strict=True):
            _backward(single_net, batch, ran, share=1 / world)
        single_opt.step()
        replaced_units.append(([u.tolist() for u in engine.replaced], [u.tolist() for u in single.replaced]))
    states = [[group.state.state_dict() for group in each.groups] for each in (engine, single)]
    params = {"params": worker.flat(net), "single_params": worker.flat(single_net)}
    generator = engine.generator.get_state()
    return {"replaced_units": replaced_units, "states": states, "generator": generator, **params}


def _backward(model: nn.Module, batch: Tensor, tasks: Tasks, share: float = 1.0) -> None:
    if tasks is not None:
        (model(batch, tasks).square().mean() * share).backward()


def _average_gradients(net: nn.Module) -> None:
    """Average over the ranks the gradients that any of them has, as DistributedDataParallel does."""
    for parameter in net.parameters():
        used = torch.tensor(parameter.grad is not None, dtype=torch.int64)
        dist.all_reduce(used)
        if used:
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(grad)
            parameter.grad = grad / dist.get_world_size()


if __name__ == "__main__":
    worker.main({"in_turn": in_turn})
