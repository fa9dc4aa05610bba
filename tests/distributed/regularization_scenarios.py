"""What the ranks do with the remedies: train together, beside the one process that sees the joined batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gnt
from tests.distributed import worker


def together(folder: Path) -> Any:
    """ReDo, L2 Init and shrink and perturb at once; ReDo's generators differ, and are made one."""
    rank, world = dist.get_rank(), dist.get_world_size()
    net, alone = worker.mlp(), worker.mlp()
    model = DistributedDataParallel(net)
    seeds, groups = (100 + rank, 100), (None, False)
    runs = []
    for each, seed, group in zip((net, alone), seeds, groups, strict=True):
        optimizer = worker.OPTIMIZERS["adam"](each)
        draws = torch.Generator().manual_seed(seed)
        redo = gnt.ReDo(each, optimizer, tau=0.6, period=4, generator=draws, process_group=group)
        reg = gnt.L2Init(each, 1e-2)
        perturb = gnt.ShrinkAndPerturb(each, shrink=0.999, noise=1e-3, generator=torch.Generator().manual_seed(1))
        runs.append((optimizer, redo, reg, perturb))
    chosen = []
    for x, y in worker.batches(net, 4 * world, 40):
        mine = (model, x[rank::world], y[rank::world]), (alone, x, y)
        for (learner, inputs, targets), (optimizer, redo, reg, perturb) in zip(mine, runs, strict=True):
            optimizer.zero_grad()
            (nn.functional.mse_loss(learner(inputs), targets) + reg()).backward()
            optimizer.step()
            perturb.step()
            redo.step()
        chosen.append([[units.tolist() for units in run[1].replaced] for run in runs])
    return {"chosen": chosen, "params": worker.flat(net), "alone": worker.flat(alone)}


if __name__ == "__main__":
    worker.main({"together": together})
