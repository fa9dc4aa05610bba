"""Scenarios of the tests of sharded networks, run by each rank: FSDP2, tensor parallelism, distributed checkpoints."""

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
from tests.distributed.communication import CollectiveSizes


def fsdp(net: nn.Sequential) -> nn.Sequential:
    """FSDP2 on every weight layer and on the network."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in net:
        if next(layer.parameters(recurse=False), None) is not None:
            fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def tensor_parallel(net: nn.Sequential) -> nn.Sequential:
    """Column-wise and row-wise parallel layers in alternation: producers and consumers are sharded both ways."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": ColwiseParallel(), "6": RowwiseParallel()}
    return parallelize_module(net, mesh, plan)


def both(net: nn.Sequential) -> nn.Sequential:
    """Tensor parallelism in one dimension of a mesh and FSDP2 in the other."""
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")  # a tensor parallel layer does
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("data", "model"))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": ColwiseParallel(), "6": RowwiseParallel()}
    parallelize_module(net, mesh["model"], plan)
    return fully_shard(net, mesh=mesh["data"])


def hybrid(net: nn.Sequential) -> nn.Sequential:
    """Hybrid sharding: FSDP2 in one dimension of a mesh and replicas in the other."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("copies", "shards"))
    return fully_shard(net, mesh=mesh)


def copies(net: nn.Sequential) -> nn.Sequential:
    """Tensor parallelism in one dimension of a mesh; replicas in the other train on the same batch.

    The weights' own mesh does not contain the dimension of the replicas.
    """
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("copies", "model"))
    return parallelize_module(net, mesh["model"], {"0": ColwiseParallel(), "2": RowwiseParallel()})


def dtensor_features(net: nn.Sequential) -> nn.Sequential:
    """Tensor parallelism with uneven shards, where features are passed on as DTensors, which know their full size."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return parallelize_module(net, mesh, {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel()})


PLANS = {
    "fsdp": fsdp,
    "tensor_parallel": tensor_parallel,
    "both": both,
    "hybrid": hybrid,
    "copies": copies,
    "dtensor_features": dtensor_features,
}
NETWORKS = {
    "mlp": worker.mlp,
    "conv": worker.convnet,
    "odd_widths": worker.odd_widths,
    "transposed": worker.transposed,
}


def local_batch(plan: str, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """This rank's part of a global batch; ranks of a tensor parallel group have the same part."""
    rank, world = dist.get_rank(), dist.get_world_size()
    parts = {"fsdp": world, "hybrid": world, "both": world // 2}.get(plan, 1)
    number = {"fsdp": rank, "hybrid": rank, "both": rank // 2}.get(plan, 0)
    return batch[0][number::parts], batch[1][number::parts]


def sharded(folder: Path, *cases: str) -> Any:
    """Train sharded, and on each rank a single-process run on the global batch, case by case.

    The anchors of an L2 Init, which is not part of the loss, follow each engine. "top" at the end of a case: some units
    are held without tasks.
    """
    return [_sharded(*case.split(":")) for case in cases]


def _sharded(plan: str, optimizer: str, utility: str, kind: str, held: str = "") -> Any:
    net, single_net = NETWORKS[kind](), NETWORKS[kind]()
    model = PLANS[plan](net)
    opt, single_opt = (worker.OPTIMIZERS[optimizer](n) for n in (net, single_net))
    own = {"utility": utility, "seed": 7, "protect": gnt.TopUnits(0.3, slow=0.25, every=3) if held else None}
    engine = worker.engine(net, opt, **own)
    single = worker.engine(single_net, single_opt, process_group=False, **own)
    anchors = gnt.L2Init(net, 1.0), gnt.L2Init(single_net, 1.0)
    for each, reg in zip((engine, single), anchors, strict=True):
        each.follow(reg)
    replaced_units = []
    for batch in worker.batches(net, 12, 50):
        worker.learn(model, opt, *local_batch(plan, batch))
        worker.learn(single_net, single_opt, *batch)
        replaced_units.append(([u.tolist() for u in engine.replaced], [u.tolist() for u in single.replaced]))
    kinds = [type(p).__name__ for p in net.parameters()]
    utility = [[g.state.utility for g in one.groups] for one in (engine, single)]
    held_units = [[g.state.held.tolist() for g in one.groups] if held else [] for one in (engine, single)]
    params = {
        name: worker.flat_tensors([*each.parameters(), *reg.start])
        for name, each, reg in zip(("params", "single_params"), (net, single_net), anchors, strict=True)
    }
    return {"replaced_units": replaced_units, "utility": utility, "held": held_units, "kinds": kinds, **params}


def refused(folder: Path) -> Any:
    """The errors for shards that are not supported: of a grouped consumer, of an engine without process group, and of
    features whose gradients are read.
    """
    return [_refused(kind) for kind in ("grouped", "no process group", "sharded features")]


def _refused(kind: str) -> Any:
    layers: list[nn.Module]
    x, utility = torch.randn(2, 1, 6, 6, dtype=torch.float64), "contribution"
    if kind == "sharded features":
        layers, x, utility = [nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)], x.flatten(0, 2), "replacement_cost"
    else:
        layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2 if kind == "grouped" else 1)]
    net = nn.Sequential(*layers).double()
    copies(net) if kind == "sharded features" else fsdp(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    utility = "random" if kind == "grouped" else utility  # "random" reads no weights
    engine = worker.engine(net, optimizer, utility=utility, process_group=False if kind == "no process group" else None)
    net(x).sum().backward()
    try:
        optimizer.step()
    except (RuntimeError, TypeError, ValueError) as error:
        return f"{error}; after {engine.updates} updates"
    return "nothing was refused"


def methods(folder: Path) -> Any:
    """Methods on shards: the errors of those that refuse them, and the gradient of `L2` beside its value."""
    net = fsdp(worker.mlp())
    penalty = gnt.L2(net, 0.5)
    messages = []
    for act in (lambda: gnt.ShrinkAndPerturb(net, shrink=0.5, noise=0.1), penalty):
        try:
            act()
        except TypeError as error:
            messages.append(str(error))
    penalty.backward()
    weight: Any = net[0].weight
    return messages, weight.grad.full_tensor().equal(weight.full_tensor())


def accumulated(folder: Path) -> Any:
    """Gradient accumulation over three micro-batches with sharded gradients."""
    net, single_net = worker.mlp(), worker.mlp()
    model = fsdp(net)
    opt, single_opt = (worker.OPTIMIZERS["adam_gnt"](n) for n in (net, single_net))
    engine = worker.engine(net, opt, seed=7, utility="adaptable_contribution")
    single = worker.engine(single_net, single_opt, seed=7, utility="adaptable_contribution", process_group=False)
    same = []
    for batch in worker.batches(net, 12, 60):
        opt.zero_grad()
        x, y = local_batch("fsdp", batch)
        for i in range(3):
            (nn.functional.mse_loss(model(x[i::3]), y[i::3]) / 3).backward()
        with CollectiveSizes() as collectives:
            opt.step()
        worker.learn(single_net, single_opt, *batch)
        same.append(all(torch.equal(a, b) for a, b in zip(engine.replaced, single.replaced, strict=True)))
    replaced = [g.state.replaced for g in engine.groups]
    return {"same": same, "updates": engine.updates, "replaced": replaced, "sizes": collectives.sizes}


def checkpointed(folder: Path, plan: str, optimizer: str, start: str, stop: str) -> Any:
    """Train from step ``start`` to ``stop``. Saves a checkpoint at step 30; ``start`` 30 resumes from it."""
    net = worker.mlp()
    model = PLANS[plan](net) if plan != "not sharded" else net
    opt = worker.OPTIMIZERS[optimizer](net)
    engine = gnt.GnT(net, opt, replacement_rate=0.02, maturity_threshold=5).attach()
    if int(start):
        weights, optimizer_state = get_state_dict(net, opt)
        state = {"net": weights, "optimizer": optimizer_state, "gnt": engine}
        dcp.load(state, checkpoint_id=folder / "checkpoint")
        set_state_dict(net, opt, model_state_dict=state["net"], optim_state_dict=state["optimizer"])
    for step, batch in enumerate(worker.batches(net, 12, int(stop))[int(start) :], start=int(start)):
        worker.learn(model, opt, *(batch if plan == "not sharded" else local_batch(plan, batch)))
        if step + 1 == 30:
            weights, optimizer_state = get_state_dict(net, opt)
            state = {"net": weights, "optimizer": optimizer_state, "gnt": engine}
            dcp.save(state, checkpoint_id=folder / "checkpoint")
    ages = [g.state.age for g in engine.groups]
    return {"params": worker.flat(net), "replaced": [g.state.replaced for g in engine.groups], "ages": ages}


if __name__ == "__main__":
    worker.main({scenario.__name__: scenario for scenario in (sharded, accumulated, refused, methods, checkpointed)})
