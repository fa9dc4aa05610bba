#!/usr/bin/env python3
"""Print what `gnt.plasticity_check` says of networks whose state is known, as rows of a table.

    python scripts/check_evidence.py [--networks 20] [--tasks 100] [--only NAME ...]

All networks are 64-100-100-10 with ReLU on scikit-learn's digits, learned with Adam; the check has its default
settings.

    new         networks that were never trained, from different seeds: how often is a loss reported that is none?
    half, most  half and 95% of the units of both hidden layers are off for every input
    ordinary    trained on the digits for 30 epochs
    worn        trained with a large step on many tasks, in each of which 200 digits have labels in a random order
    cbp         the same with continual backpropagation, with the settings of `gnt.suggest`
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import gnt

WIDTH, BATCH = 100, 16
FRESH = ("data", "labels", "permutation")
TASK_DIGITS, TASK_EPOCHS = 200, 20


def network(seed: int) -> nn.Sequential:
    """A new network."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


def digits() -> tuple[Tensor, Tensor]:
    """Images in [0, 1], and classes."""
    loaded = load_digits()
    return torch.tensor(loaded.data / 16.0, dtype=torch.float32), torch.tensor(loaded.target)


def off(share: float) -> nn.Sequential:
    """A network in which a share of the hidden units is 0 for every input."""
    net = network(0)
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.bias[: int(share * WIDTH)] = -100.0
    return net


def learn(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, epochs: int) -> None:
    """Train for some epochs."""
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[part]), y[part]).backward()
            optimizer.step()


def ordinary(lr: float) -> nn.Sequential:
    """A network trained on all digits."""
    net, (x, y) = network(0), digits()
    learn(net, torch.optim.Adam(net.parameters(), lr), x, y, 30)
    return net


def worn(lr: float, tasks: int, *, cbp: bool) -> nn.Sequential:
    """A network trained on many tasks of random labels."""
    net, (x, y) = network(0), digits()
    optimizer = torch.optim.Adam(net.parameters(), lr)
    if cbp:
        found = gnt.suggest(net, BATCH, steps_per_task=TASK_EPOCHS * -(-TASK_DIGITS // BATCH))
        print(f"  {found.settings}", file=sys.stderr)
        gnt.GnT(net, optimizer, **found.settings).attach()
    for _ in range(tasks):
        own = torch.randperm(len(x))[:TASK_DIGITS]
        learn(net, optimizer, x[own], y[own][torch.randperm(TASK_DIGITS)], TASK_EPOCHS)
    return net


def check(net: nn.Module, fresh: str, lr: float) -> gnt.PlasticityCheck:
    """The check with its default settings."""

    def adam(params: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, lr)

    return gnt.plasticity_check(net, adam, digits(), "cross_entropy", fresh=fresh, progress=False)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=20, help="number of new networks")
    parser.add_argument("--tasks", type=int, default=100, help="number of tasks of the worn networks")
    parser.add_argument("--only", nargs="+", help="names of the networks to check")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases: dict[str, tuple[float, Callable[[], nn.Module]]] = {
        "half": (1e-3, lambda: off(0.5)),
        "most": (1e-3, lambda: off(0.95)),
        "ordinary": (1e-3, lambda: ordinary(1e-3)),
        "worn": (1e-2, lambda: worn(1e-2, given.tasks, cbp=False)),
        "cbp": (1e-2, lambda: worn(1e-2, given.tasks, cbp=True)),
    }
    print("| network | learned | verdict | lost | in the last quarter | with a fresh head | dead units by layer |")
    print("|---|---|---|---|---|---|---|")
    for name, (lr, make) in cases.items():
        if given.only and name not in given.only:
            continue
        net = make()
        for fresh in FRESH:
            found = check(net, fresh, lr)
            gaps, dead = found.gaps, ", ".join(f"{layer.dead_units:.0%}" for layer in found.present if layer.units)
            lost = f"{gaps.lost.mean:.0%} [{gaps.lost.low:.0%}, {gaps.lost.high:.0%}]"
            rest = f"{gaps.lost_at_end.mean:.0%} | {gaps.lost_fresh_head.mean:.0%} | {dead}"
            print(f"| {name} | {fresh} | {found.verdict} | {lost} | {rest} |", flush=True)
    for fresh in FRESH if not given.only or "new" in given.only else ():
        checks = [check(network(1000 + seed), fresh, 1e-3) for seed in range(given.networks)]
        counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(each.verdict for each in checks).items())
        largest = max(each.gaps.lost.mean for each in checks)
        print(f"| {given.networks} new | {fresh} | {counts} | at most {largest:.0%} | | | |", flush=True)


if __name__ == "__main__":
    main()
