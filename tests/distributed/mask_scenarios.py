"""Task masks on several processes, and on one with all samples."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gnt
from tests.distributed import worker


def learn_masks(folder: Path, way: str) -> Any:
    """Train two tasks; each process has its part of each batch, and draws other embeddings than the first one.

    Gradients are computed before the optimizer's step, or in a closure given to it, by position or by name.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    net, single = worker.mlp(), worker.mlp()
    model = DistributedDataParallel(net)
    together = gnt.HAT(net, gnt.walk(net), sparsity=0.1, generator=torch.Generator().manual_seed(rank))
    alone = gnt.HAT(
        single, gnt.walk(single), sparsity=0.1, generator=torch.Generator().manual_seed(0), process_group=False
    )
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9) for each in (net, single)]
    for step, (x, y) in enumerate(worker.batches(net, 4 * world, 6)):
        for hat, learner, optimizer, a, b in (
            (together, model, optimizers[0], x[rank::world], y[rank::world]),
            (alone, single, optimizers[1], x, y),
        ):
            if step % 3 == 0:
                hat.begin(step // 3, optimizer, steps_per_epoch=3)
            closure = functools.partial(_backward, optimizer, learner, hat, a, b)
            if way == "before":
                closure()
                optimizer.step()
            elif way == "closure":
                optimizer.step(closure)
            else:
                optimizer.step(closure=closure)
            if step % 3 == 2:
                hat.end()
    return {
        "net": worker.flat(net),
        "single": worker.flat(single),
        "masks": together.masks_by_task,
        "single masks": alone.masks_by_task,
    }


def _backward(optimizer: torch.optim.Optimizer, learner: nn.Module, hat: gnt.HAT, x: Tensor, y: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(learner(x), y) + hat.penalty()
    loss.backward()
    return loss


if __name__ == "__main__":
    worker.main({"learn_masks": learn_masks})
