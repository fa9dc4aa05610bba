#!/usr/bin/env python3
"""Print what methods against loss of plasticity cost in a training step, as ratios to the same step without them.

    python scripts/remedy_cost.py [--rounds 7] [--batch 16] [--wall-time] [--only NAME ...]

The step is that of a network 784-2000-2000-2000-10 with SGD, on one thread. All variants are timed in turn, round after
round, and the smallest processor time of each counts. Where a method acts at an interval, a step in which it acts is
timed by itself, and the ratio is that of the mean step at its default interval.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import gnt

WIDTHS = (784, 2000, 2000, 2000, 10)


class Run:
    """A network with its optimizer, and what is done around their step."""

    def __init__(self, batch: int, first: nn.Module | None = None) -> None:
        torch.manual_seed(0)
        layers = [layer for a, b in pairwise(WIDTHS) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(*([] if first is None else [first]), *layers[:-1])
        self.opt: torch.optim.Optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-5)
        self.x, self.y = torch.randn(batch, WIDTHS[0]), torch.randint(WIDTHS[-1], (batch,))
        self.after_backward: Callable[[], Any] = lambda: None
        self.after_step: Callable[[], Any] = lambda: None

    def step(self) -> None:
        """Forward, loss, backward and optimizer step."""
        self.opt.zero_grad()
        F.cross_entropy(self.net(self.x), self.y).backward()
        self.after_backward()
        self.opt.step()
        self.after_step()


def variants(batch: int) -> dict[str, tuple[Run, Run | None, int]]:
    """For each variant a run, one that acts in each step (None: the run does), and the default interval."""

    def made(change: Callable[[Run], Any], **given: Any) -> Run:
        run = Run(batch, **given)
        change(run)
        return run

    def swr(period: int, **settings: Any) -> Run:
        return made(lambda run: setattr(run, "after_step", gnt.SWR(run.net, run.opt, period=period, **settings).step))

    def upgd(**settings: Any) -> Run:
        return made(lambda run: setattr(run, "opt", gnt.optim.UPGD(run.net.parameters(), lr=1e-5, **settings)))

    def engine(**settings: Any) -> Run:
        return made(lambda run: setattr(run, "after_step", gnt.GnT(run.net, run.opt, **settings).step))

    def penalty(kind: Any) -> Run:
        return made(lambda run: setattr(run, "after_backward", kind(run.net, 1e-5).backward))

    never = 10**9
    soft = {"utility": "gradient", "maturity_threshold": 0}
    return {
        "plain": (Run(batch), None, 1),
        "SWR": (swr(never), swr(1), 2048),
        "SWR, running average": (swr(never, decay_rate=0.99), swr(1, decay_rate=0.99), 2048),
        "UPGD": (upgd(), None, 1),
        "UPGD, no noise": (upgd(sigma=0.0), None, 1),
        "SNR": (made(lambda run: setattr(run, "after_step", gnt.SNR(run.net, run.opt).step)), None, 1),
        "CCBP": (
            engine(**soft, soft=gnt.SoftReplacement(period=never)),
            engine(**soft, soft=gnt.SoftReplacement(period=1)),
            1000,
        ),
        "CCBP, measure_every=100": (
            engine(utility="gradient", measure_every=100, soft=gnt.SoftReplacement(period=never)),
            engine(utility="gradient", measure_every=100, soft=gnt.SoftReplacement(period=1)),
            1000,
        ),
        "CBP with the same utility": (engine(utility="gradient"), None, 1),
        "Spectral": (penalty(gnt.Spectral), None, 1),
        "Parseval": (penalty(gnt.Parseval), None, 1),
        "InputNorm": (Run(batch, gnt.nn.InputNorm(WIDTHS[0])), None, 1),
        "FIRE, at 5,000 steps": (
            Run(batch),
            made(lambda run: setattr(run, "after_step", gnt.FIRE(run.net).apply)),
            5000,
        ),
    }


def main() -> None:
    """Time the variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--wall-time", action="store_true")
    parser.add_argument("--only", nargs="*", default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.perf_counter if given.wall_time else time.process_time
    chosen = {k: v for k, v in variants(given.batch).items() if k == "plain" or not given.only or k in given.only}
    least: dict[tuple[str, bool], float] = {}
    for number in range(given.rounds + 1):  # the first round warms up
        for name, (run, acting, _) in chosen.items():
            for acts, each in ((False, run), (True, acting)):
                if each is not None:
                    before = clock()
                    each.step()
                    if number:
                        least[name, acts] = min(least.get((name, acts), float("inf")), clock() - before)
    plain = least["plain", False]
    print(f"plain step, batch {given.batch}: {plain * 1e3:.1f} ms")
    for name, (_, acting, every) in chosen.items():
        mean = least[name, False]
        note = ""
        if acting is not None:
            extra = least[name, True] - mean
            mean += extra / every
            note = f"  (+{extra * 1e3:.0f} ms at every {every:,} steps)"
        print(f"{name:28} {mean / plain:6.2f}{note}")


if __name__ == "__main__":
    main()
