"""A-GEM and GEM on several processes, and on one with all samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gnt
from tests.distributed import worker


def project_gradients(folder: Path) -> Any:
    """Train on two tasks; each process keeps its part of the items."""
    rank, world = dist.get_rank(), dist.get_world_size()
    loss = nn.functional.mse_loss
    result = []
    for kind in ("agem", "gem"):
        net, single = worker.mlp(), worker.mlp()
        model = DistributedDataParallel(net)
        methods = []
        for each, group in ((model, None), (single, False)):
            if kind == "gem":
                methods.append(gnt.GEM(each, loss, margin=0.1, process_group=group))
            else:
                methods.append(gnt.AGEM(each, gnt.ReplayBuffer(100), loss, process_group=group))
        together, alone = methods
        changed = 0
        optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (net, single)]
        for step, (x, y) in enumerate(worker.batches(net, 4 * world, 6)):
            if step % 3 == 0:
                together.begin_task(step // 3)
                alone.begin_task(step // 3)
            y = y + 3 * (-1) ** (step // 3)
            for method, learner, optimizer, a, b in (
                (together, model, optimizers[0], x[rank::world], y[rank::world]),
                (alone, single, optimizers[1], x, y),
            ):
                optimizer.zero_grad()
                loss(learner(a), b).backward()
                before = worker.flat_tensors(p.grad for p in learner.parameters() if p.grad is not None)
                method.project()
                changed += not before.equal(
                    worker.flat_tensors(p.grad for p in learner.parameters() if p.grad is not None)
                )
                optimizer.step()
                method.add(a, b)
        result.append({"net": worker.flat(net), "single": worker.flat(single), "changed": changed})
    return result


if __name__ == "__main__":
    worker.main({"project_gradients": project_gradients})
