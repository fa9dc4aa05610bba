"""Scenarios of the DistributedDataParallel tests, run by each rank."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

import gnt
from gnt.units import UnitGroup
from tests.distributed import worker
from tests.distributed.communication import CollectiveSizes


def many_steps(folder: Path, utility: str, optimizer: str) -> Any:
    """Train with many replacements in float32, with a different torch seed on each rank."""
    net = worker.mlp(torch.float32)
    model = DistributedDataParallel(net)
    torch.manual_seed(dist.get_rank())
    opt = worker.OPTIMIZERS[optimizer](net)
    engine = worker.engine(net, opt, utility=utility, accumulate=False)
    rank = dist.get_rank()
    for x, y in worker.batches(net, 4 * dist.get_world_size(), 250):
        worker.learn(model, opt, x[rank :: dist.get_world_size()], y[rank :: dist.get_world_size()])
    state = torch.cat([v.flatten().float() for s in opt.state.values() for v in s.values() if torch.is_tensor(v)])
    replaced = [g.state.replaced for g in engine.groups]
    return {"params": worker.flat(net), "optimizer_state": state, "replaced": replaced}


def global_batch(folder: Path, *cases: str) -> Any:
    """Train on all ranks together, and on each rank a single-process run on the global batch."""
    return [_global_batch(*case.split(":")) for case in cases]


def _global_batch(utility: str, kind: str) -> Any:
    rank, world = dist.get_rank(), dist.get_world_size()
    make = worker.convnet if kind == "conv" else worker.mlp
    net, single_net = make(), make()
    model = DistributedDataParallel(net)
    opt, single_opt = (worker.OPTIMIZERS["adam_gnt"](n) for n in (net, single_net))
    engine = worker.engine(net, opt, utility=utility, seed=7)
    single = worker.engine(single_net, single_opt, utility=utility, seed=7, process_group=False)
    replaced_units = []
    for x, y in worker.batches(net, 4 * world, 150):
        worker.learn(model, opt, x[rank::world], y[rank::world])
        worker.learn(single_net, single_opt, x, y)
        replaced_units.append(([u.tolist() for u in engine.replaced], [u.tolist() for u in single.replaced]))
    max_difference = {
        name: max(
            float((getattr(a.state, name) - getattr(b.state, name)).abs().max())
            for a, b in zip(engine.groups, single.groups, strict=True)
        )
        for name in ("utility", "mean_feature", "age")
    }
    params = {"params": worker.flat(net), "single_params": worker.flat(single_net)}
    return {"replaced_units": replaced_units, "max_difference": max_difference, **params}


def layers(folder: Path) -> Any:
    """CBP layers replace units without calls from the loop; all layers of an optimizer share one collective."""
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    fc = [nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 6)]
    settings = {"replacement_rate": 0.05, "maturity_threshold": 3}
    cbp = [gnt.CBPLinear(a, b, **settings) for a, b in itertools.pairwise(fc)]
    net = nn.Sequential(fc[0], nn.ReLU(), cbp[0], fc[1], nn.ReLU(), cbp[1], fc[2]).double()
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for layer in cbp:  # generators differ between ranks until the first step synchronizes them
        layer.engine.generator.manual_seed(rank)
    batches = worker.batches(net, 4 * world, 60)
    for x, y in batches[:-1]:
        worker.learn(model, optimizer, x[rank::world], y[rank::world])
    x, y = batches[-1]
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x[rank::world]), y[rank::world]).backward()
    with CollectiveSizes() as collectives:
        optimizer.step()
    replaced = [c.group.state.replaced for c in cbp]
    return {"params": worker.flat(net), "replaced": replaced, "collectives": len(collectives.sizes)}


def killed(folder: Path, until: str) -> Any:
    """Train from the checkpoint, if there is one; rank 1 is killed after step ``until``."""
    rank, world = dist.get_rank(), dist.get_world_size()
    net = worker.mlp(torch.float32)
    model = DistributedDataParallel(net)
    optimizer = gnt.optim.CBPAdam(net, lr=1e-3, replacement_rate=0.02, maturity_threshold=5)
    saved, start = folder / "checkpoint.pt", 0
    if saved.exists():
        state = torch.load(saved)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    for step, (x, y) in enumerate(worker.batches(net, 4 * world, 120)[start:], start=start):
        worker.learn(model, optimizer, x[rank::world], y[rank::world])
        if step % 20 == 19:
            if rank == 0:
                torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, saved)
            dist.barrier()
        if step == int(until) and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    replaced = [g.state.replaced for g in optimizer.gnt.groups]
    return {"params": worker.flat(net), "replaced": replaced, "start": start}


def cost(folder: Path) -> Any:
    """The collectives' sizes in bytes and the number of replaced units, for each step."""
    return {utility: _cost(utility) for utility in ("contribution", "weight", "adaptable_contribution")}


def _cost(utility: str) -> Any:
    rank, world = dist.get_rank(), dist.get_world_size()
    net = worker.convnet()
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    engine = worker.engine(net, optimizer, utility=utility)
    steps = []
    for x, y in worker.batches(net, 4 * world, 30):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[rank::world]), y[rank::world]).backward()
        with CollectiveSizes() as collectives:
            optimizer.step()
        steps.append((collectives.sizes, sum(len(units) for units in engine.replaced)))
    return steps


def different(folder: Path) -> Any:
    """The error on each rank if one rank differs from the others; no rank may hang."""
    differences = ("groups", "settings", "activations", "ages", "loaded ages", "networks", "protected units")
    return {what: _different(what) for what in differences}


def _different(what: str) -> Any:
    rank = dist.get_rank()
    net = worker.mlp()
    if what == "networks":
        net[0].weight.data += rank
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    listed = list(net) if what != "groups" or rank == 0 else list(net)[:5]
    settings: dict[str, Any] = {"activation": "tanh" if rank else "relu"} if what == "activations" else {}
    if what == "protected units":
        settings = {"protect": FirstUnits(rank)}
    rate = 0.1 if what == "settings" and rank else 0.2
    engine = worker.engine(listed, optimizer, replacement_rate=rate, **settings)
    if what == "ages" and rank:
        for group in engine.groups:
            group.state.updates = 5
    x, y = worker.batches(net, 4, 1)[0]
    if what == "loaded ages":  # loaded after a step in which nothing differed
        worker.learn(net, optimizer, x, y)
        state = engine.state_dict()
        groups = _add_updates(state["groups"], rank)
        engine.load_state_dict({**state, "updates": state["updates"] + rank, "groups": groups})
    try:
        worker.learn(net, optimizer, x, y)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


class FirstUnits:
    """Protects the first units of every group."""

    def __init__(self, count: int) -> None:
        self.count = count

    def protected(self, group: UnitGroup) -> torch.Tensor:
        return torch.arange(group.num_units) < self.count


def _add_updates(groups: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [{**group, "updates": group["updates"] + count} for group in groups]


def uneven(folder: Path) -> Any:
    """Batches of different sizes on the ranks, also empty ones; a step without samples on any rank is no update."""
    rank = dist.get_rank()
    net = worker.mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    engine = worker.engine(net, optimizer, seed=7, decay_rate=0.0)
    (x, y), (more, _) = worker.batches(net, 8, 2)
    optimizer.zero_grad()
    nn.functional.mse_loss(net(x[:8] if rank else x[:0]), y[:8] if rank else y[:0], reduction="sum").backward()
    optimizer.step()
    one_empty = [g.state.corrected_mean_feature.clone() for g in engine.groups]
    net(more[:5] if rank else more[5:]).sum().backward()
    optimizer.step()
    split = [g.state.corrected_mean_feature.clone() for g in engine.groups]
    net(more[:0]).sum().backward()
    optimizer.step()
    with torch.no_grad():
        expected = [[net[: 2 * i + 2](batch).mean(0) for i in range(3)] for batch in (x, more)]
    return {"means": [one_empty, split], "expected": expected, "updates": engine.updates}


def not_finite(folder: Path) -> Any:
    """One rank has a NaN in its batch: all ranks raise the same error, and no engine changes."""
    rank = dist.get_rank()
    net = worker.mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    engine = worker.engine(net, optimizer)
    message, states = "", []
    for step, (x, _) in enumerate(worker.batches(net, 4, 12)):
        net(x * float("nan") if step == 9 and rank else x).sum().backward()
        optimizer.zero_grad()
        states.append([list(g.state.state_dict().values()) for g in engine.groups])
        try:
            optimizer.step()
        except FloatingPointError as error:
            message = f"{error} (step {step})"
    before_and_after = [tree_leaves(state) for state in states[9:11]]
    unchanged = all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*before_and_after, strict=True))
    return {"message": message, "unchanged": unchanged, "updates": engine.updates, "params": worker.flat(net)}


def subgroup(folder: Path, *_: str) -> Any:
    """Ranks 0 and 2 train one network in a process group; rank 1 trains another by itself."""
    group = dist.new_group([0, 2])
    rank = dist.get_rank()
    member = rank != 1
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 6)).double()
    model = DistributedDataParallel(net, process_group=group) if member else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    engine = worker.engine(net, optimizer, process_group=group if member else False)
    for x, y in worker.batches(net, 6, 30 if member else 20):
        worker.learn(model, optimizer, x[rank::3], y[rank::3])
    return {"updates": engine.updates, "replaced": engine.groups[0].state.replaced, "params": worker.flat(net)}


def accumulated(folder: Path) -> Any:
    """Gradient accumulation over three micro-batches, with gradients averaged for each one, once, or in buckets."""
    return {mode: _accumulated(mode) for mode in ("each time", "once", "in buckets", "built early")}


_built_early: list[Any] = []


def build_early() -> None:
    """Build an engine before the process group is initialized."""
    net = worker.mlp()
    optimizer = worker.OPTIMIZERS["sgd"](net)
    _built_early[:] = [net, optimizer, worker.engine(net, optimizer, seed=7)]


def _accumulated(mode: str) -> Any:
    rank, world = dist.get_rank(), dist.get_world_size()
    net, single_net = worker.mlp(), worker.mlp()
    opt, single_opt = (worker.OPTIMIZERS["sgd"](n) for n in (net, single_net))
    if mode == "built early":
        net, opt, engine = _built_early
    else:
        engine = worker.engine(net, opt, seed=7)
    model = DistributedDataParallel(net, gradient_as_bucket_view=mode == "in buckets")
    single = worker.engine(single_net, single_opt, seed=7, process_group=False)
    same = []
    for x, y in worker.batches(net, 6 * world, 60):
        opt.zero_grad()
        for i in range(3):
            with model.no_sync() if mode == "once" and i < 2 else contextlib.nullcontext():
                (nn.functional.mse_loss(model(x[rank::world][i::3]), y[rank::world][i::3]) / 3).backward()
        opt.step()
        worker.learn(single_net, single_opt, x, y)
        same.append(all(torch.equal(a, b) for a, b in zip(engine.replaced, single.replaced, strict=True)))
    return {"same": same, "updates": engine.updates, "replaced": [g.state.replaced for g in engine.groups]}


def independent(folder: Path) -> Any:
    """Each rank trains its own network, with ``process_group=False``."""
    torch.manual_seed(dist.get_rank())
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 6)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    engine = worker.engine(net, optimizer, process_group=False)
    with CollectiveSizes() as collectives:
        for x, y in worker.batches(net, 4, 20 + 20 * dist.get_rank()):
            worker.learn(net, optimizer, x, y)
    return {"updates": engine.updates, "collectives": len(collectives.sizes), "params": worker.flat(net)}


if __name__ == "__main__":
    training = many_steps, global_batch, layers, killed, subgroup, accumulated, independent
    scenarios = *training, cost, different, uneven, not_finite
    worker.main({scenario.__name__: scenario for scenario in scenarios}, before=build_early)
