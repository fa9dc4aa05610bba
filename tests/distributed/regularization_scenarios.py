"""Regularization methods, ReDo and its followers on several processes, and on one with all samples of the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import gnt
from gnt.optim import CBPAdam
from tests.distributed import worker


def train_with_all_methods(folder: Path) -> Any:
    """Train with ReDo, L2 Init and shrink and perturb; ReDo synchronizes its generators, whose seeds differ.

    L2 Init and an averaged copy of the model follow ReDo.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    net, single = worker.mlp(), worker.mlp()
    model = DistributedDataParallel(net)
    seeds, groups = (100 + rank, 100), (None, False)
    runs = []
    for each, seed, group in zip((net, single), seeds, groups, strict=True):
        optimizer = worker.OPTIMIZERS["adam"](each)
        generator = torch.Generator().manual_seed(seed)
        redo = gnt.ReDo(each, optimizer, tau=0.6, period=4, generator=generator, process_group=group)
        reg, average = gnt.L2Init(each, 1e-2), AveragedModel(model if each is net else each)
        redo.follow(reg).follow(average)
        perturb = gnt.ShrinkAndPerturb(each, shrink=0.999, noise=1e-3, generator=torch.Generator().manual_seed(1))
        runs.append((optimizer, redo, reg, perturb, average))
    replaced_units = []
    for x, y in worker.batches(net, 4 * world, 40):
        pairs = (model, x[rank::world], y[rank::world]), (single, x, y)
        for (learner, inputs, targets), (optimizer, redo, reg, perturb, average) in zip(pairs, runs, strict=True):
            optimizer.zero_grad()
            (nn.functional.mse_loss(learner(inputs), targets) + reg()).backward()
            optimizer.step()
            perturb.step()
            redo.step()
            average.update_parameters(learner)
        replaced_units.append([[units.tolist() for units in run[1].replaced] for run in runs])
    params = [
        torch.cat([worker.flat(each), worker.flat(average.module), *(start.flatten() for start in reg.start)])
        for each, (_, _, reg, _, average) in zip((net, single), runs, strict=True)
    ]
    return {"replaced_units": replaced_units, "params": params[0], "single": params[1]}


def consolidate_on_parts(folder: Path) -> Any:
    """Measure importances on a part of the samples on each rank; then rank 0 has none, which both ranks refuse."""
    rank = dist.get_rank()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = torch.randn(10, 4, dtype=torch.float64)
    model = DistributedDataParallel(net)
    found = []
    for method in (gnt.EWC(model, 1.0), gnt.MAS(model, 1.0)):
        method.consolidate(model, x[:7] if rank == 0 else x[7:])
        message = ""
        try:
            method.consolidate(model, x[: 5 * rank])
        except (ValueError, RuntimeError) as error:
            message = str(error)
        found.append({"importance": [method.importance(p) for p in net.parameters()], "message": message})
    own = gnt.EWC(net, 1.0, process_group=False)
    if rank == 0:
        own.consolidate(net, x)
    check = measure_on_one_process(net) if rank == 0 else None
    return {"x": x, "net": net.state_dict(), "found": found, "tasks": own.tasks, "check": check}


def measure_on_one_process(net: nn.Module) -> str:
    """The measure of a plasticity check whose copies have engines, without the other process."""

    def cbp(net: nn.Module) -> torch.optim.Optimizer:
        return CBPAdam(net, lr=1e-2, replacement_rate=0.1, maturity_threshold=2)

    x = torch.randn(64, 4, dtype=torch.float64)
    data = x, x[:, :3].argmax(1)
    return gnt.plasticity_check(net, cbp, data, "cross_entropy", steps=6, seeds=2, progress=False).measure


def replace_after_a_change_of_generators(folder: Path) -> Any:
    """Train with an engine whose generator is another one on each process from the tenth step on."""
    rank, world = dist.get_rank(), dist.get_world_size()
    net = worker.mlp()
    model, optimizer = DistributedDataParallel(net), torch.optim.SGD(net.parameters(), lr=0.05)
    engine = gnt.GnT(gnt.walk(net), optimizer, replacement_rate=0.1, maturity_threshold=3).attach()
    for step, (x, y) in enumerate(worker.batches(net, 4 * world, 30)):
        if step == 10:
            engine.generator = torch.Generator().manual_seed(rank)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[rank::world]), y[rank::world]).backward()
        optimizer.step()
    return {"net": worker.flat(net), "replaced": sum(group.state.replaced for group in engine.groups)}


def learn_tasks_with_packnet(folder: Path) -> Any:
    """Train three tasks on the processes together, and on one with all samples; outputs of the first after each."""
    rank, world = dist.get_rank(), dist.get_world_size()
    net, single = worker.mlp(), worker.mlp()
    model = DistributedDataParallel(net, find_unused_parameters=True)
    optimizers = [
        torch.optim.SGD(each.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01) for each in (net, single)
    ]
    together, alone = gnt.PackNet(model, optimizer=optimizers[0]), gnt.PackNet(single, optimizer=optimizers[1])
    outputs = []
    for task in range(3):
        together.begin_task()
        alone.begin_task()
        for step, (x, y) in enumerate(worker.batches(net, 4 * world, 5, seed=task)):
            worker.learn(model, optimizers[0], x[rank::world], y[rank::world])
            worker.learn(single, optimizers[1], x, y)
            if step == 3:
                together.prune()
                alone.prune()
        together.end_task()
        alone.end_task()
        with together.use(0), torch.no_grad():
            outputs.append(net(torch.ones(3, 6, dtype=torch.float64)))
    found = {"net": worker.flat(net), "single": worker.flat(single), "outputs": outputs}
    return {
        **found,
        "owned": together.owned(),
        "owned_single": alone.owned(),
        "owners": together.state_dict()["owners"],
    }


def learn_tasks_with_fg_ada_hat(folder: Path) -> Any:
    """Train two tasks on the processes together, and on one with all samples, by a measure and by an attribution."""
    rank, world = dist.get_rank(), dist.get_world_size()
    found: dict[str, list[torch.Tensor]] = {}
    for importance in ("incoming_contribution", "deeplift"):
        for own in ((rank, world), (0, 1)):
            group = dist.group.WORLD if own[1] > 1 else False
            net = worker.mlp()
            model = DistributedDataParallel(net) if group else net
            generator = torch.Generator().manual_seed(3)
            hat = gnt.FGAdaHAT(
                net, gnt.walk(net), alpha=0.1, importance=importance, every=1, generator=generator, process_group=group
            )
            optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
            for task in range(2):
                with hat.learning(task, optimizer, steps_per_epoch=4):
                    for x, y in worker.batches(net, 4 * world, 4, seed=task):
                        x, y = x[own[0] :: own[1]], y[own[0] :: own[1]].argmax(1)
                        hat.observe(x, y)
                        optimizer.zero_grad()
                        (nn.functional.cross_entropy(model(x), y) + hat.penalty()).backward()
                        optimizer.step()
            found.setdefault(importance, []).append(torch.cat([hat.importances.flatten(), worker.flat(net)]))
    return found


if __name__ == "__main__":
    scenarios = (
        *(train_with_all_methods, consolidate_on_parts, replace_after_a_change_of_generators),
        *(learn_tasks_with_packnet, learn_tasks_with_fg_ada_hat),
    )
    worker.main({each.__name__: each for each in scenarios})
