"""What the ranks of the tests of sharded networks do: FSDP2, tensor parallel plans, distributed checkpoints."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import gnt
from tests.distributed import worker
from tests.distributed.communication import Exchanges


def shard(net: nn.Sequential) -> nn.Sequential:
    """FSDP2 on every weight layer and on the whole."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in net:
        if next(layer.parameters(recurse=False), None) is not None:
            fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def parallelize(net: nn.Sequential) -> nn.Sequential:
    """Producers sharded over their units, consumers over their inputs; and the other way round."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": ColwiseParallel(), "6": RowwiseParallel()}
    return parallelize_module(net, mesh, plan)


def both(net: nn.Sequential) -> nn.Sequential:
    """Tensor parallel within, FSDP2 across: a mesh of two dimensions."""
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")  # of a tensor parallel layer
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("data", "model"))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": ColwiseParallel(), "6": RowwiseParallel()}
    parallelize_module(net, mesh["model"], plan)
    return fully_shard(net, mesh=mesh["data"])


def hybrid(net: nn.Sequential) -> nn.Sequential:
    """FSDP2 within a node, copies of it on several."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("copies", "shards"))
    return fully_shard(net, mesh=mesh)


def copies(net: nn.Sequential) -> nn.Sequential:
    """Tensor parallel within, copies across that no mesh of the weights knows of; all see the same batch."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("copies", "model"))
    return parallelize_module(net, mesh["model"], {"0": ColwiseParallel(), "2": RowwiseParallel()})


def loose(net: nn.Sequential) -> nn.Sequential:
    """Tensor parallel over uneven parts: features are passed on as DTensors, which know their whole size."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return parallelize_module(net, mesh, {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel()})


PLANS = {"fsdp": shard, "tensor": parallelize, "both": both, "hybrid": hybrid, "copies": copies, "loose": loose}
MAKE = {"mlp": worker.mlp, "conv": worker.convnet, "odd": worker.odd, "transposed": worker.transposed}


def part(plan: str, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What this rank sees of a joined batch: ranks of one tensor parallel group see the same."""
    rank, world = dist.get_rank(), dist.get_world_size()
    shares = {"fsdp": world, "hybrid": world, "both": world // 2}.get(plan, 1)
    place = {"fsdp": rank, "hybrid": rank, "both": rank // 2}.get(plan, 0)
    return batch[0][place::shares], batch[1][place::shares]


def compared(folder: Path, *cases: str) -> Any:
    """The sharded run beside the whole one, case by case."""
    return [_compared(*case.split(":")) for case in cases]


def _compared(plan: str, optimizer: str, utility: str, kind: str) -> Any:
    net, alone = MAKE[kind](), MAKE[kind]()
    model = PLANS[plan](net)
    opt, opt_alone = (worker.OPTIMIZERS[optimizer](n) for n in (net, alone))
    engine = worker.engine(net, opt, utility=utility, seed=7)
    single = worker.engine(alone, opt_alone, utility=utility, seed=7, process_group=False)
    chosen = []
    for batch in worker.batches(net, 12, 100):
        worker.learn(model, opt, *part(plan, batch))
        worker.learn(alone, opt_alone, *batch)
        chosen.append(([u.tolist() for u in engine.replaced], [u.tolist() for u in single.replaced]))
    sharded = [type(p).__name__ for p in net.parameters()]
    utility = [[g.state.utility for g in one.groups] for one in (engine, single)]
    params = {"params": worker.flat(net), "alone": worker.flat(alone)}
    return {"chosen": chosen, "utility": utility, "kinds": sharded, **params}


def refused(folder: Path) -> Any:
    """Shards that cannot be watched: of a grouped consumer, and of an engine with too few processes."""
    return [_refused(kind) for kind in ("grouped", "alone")]


def _refused(kind: str) -> Any:
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2 if kind == "grouped" else 1)]
    net = nn.Sequential(*layers).double()
    shard(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    utility = "random" if kind == "grouped" else "contribution"  # that reads no weights
    engine = worker.engine(net, optimizer, utility=utility, process_group=False if kind == "alone" else None)
    net(torch.randn(2, 1, 6, 6, dtype=torch.float64)).sum().backward()
    try:
        optimizer.step()
    except (TypeError, ValueError) as error:
        return f"{error}; after {engine.updates} updates"
    return "nothing was refused"


def accumulated(folder: Path) -> Any:
    """Three micro-batches are one update for sharded gradients, too."""
    net, alone = worker.mlp(), worker.mlp()
    model = shard(net)
    opt, opt_alone = (worker.OPTIMIZERS["adam_gnt"](n) for n in (net, alone))
    engine = worker.engine(net, opt, seed=7, utility="adaptable_contribution")
    single = worker.engine(alone, opt_alone, seed=7, utility="adaptable_contribution", process_group=False)
    same = []
    for batch in worker.batches(net, 12, 60):
        opt.zero_grad()
        x, y = part("fsdp", batch)
        for i in range(3):
            (nn.functional.mse_loss(model(x[i::3]), y[i::3]) / 3).backward()
        with Exchanges() as exchanges:
            opt.step()
        worker.learn(alone, opt_alone, *batch)
        same.append(all(torch.equal(a, b) for a, b in zip(engine.replaced, single.replaced, strict=True)))
    replaced = [g.state.replaced for g in engine.groups]
    return {"same": same, "updates": engine.updates, "replaced": replaced, "exchanges": exchanges.sizes}


def life(folder: Path, plan: str, optimizer: str, start: str, stop: str) -> Any:
    """Steps ``start`` to ``stop`` of one run; from 0 with a checkpoint at 30, from 30 on out of that checkpoint."""
    net = worker.mlp()
    model = PLANS[plan](net) if plan != "whole" else net
    opt = worker.OPTIMIZERS[optimizer](net)
    engine = gnt.GnT(net, opt, replacement_rate=0.02, maturity_threshold=5).attach()
    if int(start):
        weights, memory = get_state_dict(net, opt)
        state = {"net": weights, "optimizer": memory, "gnt": engine}
        dcp.load(state, checkpoint_id=folder / "checkpoint")
        set_state_dict(net, opt, model_state_dict=state["net"], optim_state_dict=state["optimizer"])
    for step, batch in enumerate(worker.batches(net, 12, int(stop))[int(start) :], start=int(start)):
        worker.learn(model, opt, *(batch if plan == "whole" else part(plan, batch)))
        if step + 1 == 30:
            weights, memory = get_state_dict(net, opt)
            dcp.save({"net": weights, "optimizer": memory, "gnt": engine}, checkpoint_id=folder / "checkpoint")
    ages = [g.state.age for g in engine.groups]
    return {"params": worker.flat(net), "replaced": [g.state.replaced for g in engine.groups], "ages": ages}


if __name__ == "__main__":
    worker.main({scenario.__name__: scenario for scenario in (compared, accumulated, refused, life)})
