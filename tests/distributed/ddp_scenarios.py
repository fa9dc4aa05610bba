"""What the ranks of the DistributedDataParallel tests do."""

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
from tests.distributed import worker
from tests.distributed.communication import Exchanges


def thousand_steps(folder: Path, utility: str, optimizer: str) -> Any:
    """Many replacements in float32; ranks seeded differently, as careful users do."""
    net = worker.mlp(torch.float32)
    model = DistributedDataParallel(net)
    torch.manual_seed(dist.get_rank())
    opt = worker.OPTIMIZERS[optimizer](net)
    engine = worker.engine(net, opt, utility=utility, accumulate=False)
    rank = dist.get_rank()
    for x, y in worker.batches(net, 4 * dist.get_world_size(), 1000):
        worker.learn(model, opt, x[rank :: dist.get_world_size()], y[rank :: dist.get_world_size()])
    memory = torch.cat([v.flatten().float() for s in opt.state.values() for v in s.values() if torch.is_tensor(v)])
    return {"params": worker.flat(net), "memory": memory, "replaced": [g.state.replaced for g in engine.groups]}


def joined(folder: Path, *cases: str) -> Any:
    """Beside the ranks' run, each rank makes the one-process run on the joined batch."""
    return [_joined(*case.split(":")) for case in cases]


def _joined(utility: str, kind: str) -> Any:
    rank, world = dist.get_rank(), dist.get_world_size()
    make = worker.convnet if kind == "conv" else worker.mlp
    net, alone = make(), make()
    model = DistributedDataParallel(net)
    opt, opt_alone = (worker.OPTIMIZERS["adam_gnt"](n) for n in (net, alone))
    engine = worker.engine(net, opt, utility=utility, seed=7)
    single = worker.engine(alone, opt_alone, utility=utility, seed=7, process_group=False)
    chosen = []
    for x, y in worker.batches(net, 4 * world, 150):
        worker.learn(model, opt, x[rank::world], y[rank::world])
        worker.learn(alone, opt_alone, x, y)
        chosen.append(([u.tolist() for u in engine.replaced], [u.tolist() for u in single.replaced]))
    worst = {
        name: max(
            float((getattr(a.state, name) - getattr(b.state, name)).abs().max())
            for a, b in zip(engine.groups, single.groups, strict=True)
        )
        for name in ("utility", "mean_feature", "age")
    }
    return {"chosen": chosen, "params": worker.flat(net), "alone": worker.flat(alone), "worst": worst}


def layers(folder: Path) -> Any:
    """CBP layers act by themselves; all of one optimizer in one exchange."""
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    fc = [nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 6)]
    settings = {"replacement_rate": 0.05, "maturity_threshold": 3}
    cbp = [gnt.CBPLinear(a, b, **settings) for a, b in itertools.pairwise(fc)]
    net = nn.Sequential(fc[0], nn.ReLU(), cbp[0], fc[1], nn.ReLU(), cbp[1], fc[2]).double()
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for layer in cbp:  # the coin and the draws of each rank differ until they join
        layer.engine.generator.manual_seed(rank)
    batches = worker.batches(net, 4 * world, 60)
    for x, y in batches[:-1]:
        worker.learn(model, optimizer, x[rank::world], y[rank::world])
    x, y = batches[-1]
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x[rank::world]), y[rank::world]).backward()
    with Exchanges() as seen:
        optimizer.step()
    return {"params": worker.flat(net), "replaced": [c.group.state.replaced for c in cbp], "exchanges": len(seen.sizes)}


def killed(folder: Path, until: str) -> Any:
    """Rank 1 is killed after that many steps; what goes on does so from the checkpoint."""
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
            if rank == 0:  # on one rank alone, as loops do
                torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, saved)
            dist.barrier()
        if step == int(until) and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    replaced = [g.state.replaced for g in optimizer.gnt.groups]
    return {"params": worker.flat(net), "replaced": replaced, "start": start}


def cost(folder: Path) -> Any:
    """Collectives and bytes of each step, with what was replaced in it."""
    return {utility: _cost(utility) for utility in ("contribution", "weight", "adaptable_contribution")}


def _cost(utility: str) -> Any:
    rank, world = dist.get_rank(), dist.get_world_size()
    net = worker.convnet()
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    engine = worker.engine(net, optimizer, utility=utility)
    seen = []
    for x, y in worker.batches(net, 4 * world, 30):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[rank::world]), y[rank::world]).backward()
        with Exchanges() as exchanges:
            optimizer.step()
        seen.append((exchanges.sizes, sum(len(units) for units in engine.replaced)))
    return seen


def different(folder: Path) -> Any:
    """One rank does otherwise: every rank is told, none waits for ever."""
    return {what: _different(what) for what in ("groups", "settings", "ages", "loaded ages", "networks")}


def _different(what: str) -> Any:
    rank = dist.get_rank()
    net = worker.mlp()
    if what == "networks":
        net[0].weight.data += rank
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    listed = list(net) if what != "groups" or rank == 0 else list(net)[:5]
    engine = worker.engine(listed, optimizer, replacement_rate=0.1 if what == "settings" and rank else 0.2)
    if what == "ages" and rank:
        for group in engine.groups:
            group.state.updates = 5
    x, y = worker.batches(net, 4, 1)[0]
    if what == "loaded ages":  # after a step, in which nothing differed
        worker.learn(net, optimizer, x, y)
        engine.load_state_dict({**(state := engine.state_dict()), "groups": _older(state["groups"], by=rank)})
    try:
        worker.learn(net, optimizer, x, y)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def _older(groups: list[dict[str, Any]], by: int) -> list[dict[str, Any]]:
    return [{**group, "updates": group["updates"] + by} for group in groups]


def uneven(folder: Path) -> Any:
    """Batches of different sizes, one of them empty: samples count, not ranks; no samples anywhere: nobody ages."""
    rank = dist.get_rank()
    net = worker.mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    engine = worker.engine(net, optimizer, seed=7, decay_rate=0.0)
    (x, y), (more, _) = worker.batches(net, 8, 2)
    optimizer.zero_grad()
    nn.functional.mse_loss(net(x[:8] if rank else x[:0]), y[:8] if rank else y[:0], reduction="sum").backward()
    optimizer.step()
    one_sided = [g.state.corrected_mean_feature.clone() for g in engine.groups]
    net(more[:5] if rank else more[5:]).sum().backward()
    optimizer.step()
    split = [g.state.corrected_mean_feature.clone() for g in engine.groups]
    net(more[:0]).sum().backward()
    optimizer.step()
    with torch.no_grad():
        wanted = [[net[: 2 * i + 2](batch).mean(0) for i in range(3)] for batch in (x, more)]
    return {"found": [one_sided, split], "wanted": wanted, "updates": engine.updates}


def not_finite(folder: Path) -> Any:
    """One rank reads a NaN: all are told the same, and the engines of all stay as they are."""
    rank = dist.get_rank()
    net = worker.mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    engine = worker.engine(net, optimizer)
    told, states = "", []
    for step, (x, _) in enumerate(worker.batches(net, 4, 12)):
        net(x * float("nan") if step == 9 and rank else x).sum().backward()
        optimizer.zero_grad()
        states.append([list(g.state.state_dict().values()) for g in engine.groups])
        try:
            optimizer.step()
        except FloatingPointError as error:
            told = f"{error} (step {step})"
    kept = [tree_leaves(state) for state in states[9:11]]
    same = all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*kept, strict=True))
    return {"told": told, "same": same, "updates": engine.updates, "params": worker.flat(net)}


def some(folder: Path, *_: str) -> Any:
    """Ranks 0 and 2 train one network, rank 1 another, alone."""
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
    """Three micro-batches are one update, whether their gradients are averaged each time, once, or in the buckets."""
    return {way: _accumulated(way) for way in ("each time", "once", "in buckets", "built early")}


_early: list[Any] = []


def build_early() -> None:
    """An engine that is older than its processes."""
    net = worker.mlp()
    optimizer = worker.OPTIMIZERS["sgd"](net)
    _early[:] = [net, optimizer, worker.engine(net, optimizer, seed=7)]


def _accumulated(way: str) -> Any:
    rank, world = dist.get_rank(), dist.get_world_size()
    net, alone = worker.mlp(), worker.mlp()
    opt, opt_alone = (worker.OPTIMIZERS["sgd"](n) for n in (net, alone))
    if way == "built early":
        net, opt, engine = _early
    else:
        engine = worker.engine(net, opt, seed=7)
    model = DistributedDataParallel(net, gradient_as_bucket_view=way == "in buckets")
    single = worker.engine(alone, opt_alone, seed=7, process_group=False)
    same = []
    for x, y in worker.batches(net, 6 * world, 60):
        opt.zero_grad()
        for i in range(3):
            with model.no_sync() if way == "once" and i < 2 else contextlib.nullcontext():
                (nn.functional.mse_loss(model(x[rank::world][i::3]), y[rank::world][i::3]) / 3).backward()
        opt.step()
        worker.learn(alone, opt_alone, x, y)
        same.append(all(torch.equal(a, b) for a, b in zip(engine.replaced, single.replaced, strict=True)))
    return {"same": same, "updates": engine.updates, "replaced": [g.state.replaced for g in engine.groups]}


def alone(folder: Path) -> Any:
    """process_group=False: every rank trains a network of its own."""
    torch.manual_seed(dist.get_rank())
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 6)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    engine = worker.engine(net, optimizer, process_group=False)
    with Exchanges() as exchanges:
        for x, y in worker.batches(net, 4, 20 + 20 * dist.get_rank()):
            worker.learn(net, optimizer, x, y)
    return {"updates": engine.updates, "exchanges": len(exchanges.sizes), "params": worker.flat(net)}


if __name__ == "__main__":
    scenarios = (thousand_steps, joined, layers, killed, cost, different, uneven, not_finite, some, accumulated, alone)
    worker.main({scenario.__name__: scenario for scenario in scenarios}, before=build_early)
