#!/usr/bin/env python3
"""Print how many files of gnt one step runs through, and how often it switches between them.

    python scripts/step_path.py            a table; exit status 1 if a limit is exceeded
    python scripts/step_path.py --files    also the files in the order in which they are first called

A step is profiled with `sys.setprofile` after five warm-up steps of a three-layer MLP. Counted are calls of Python
functions defined in gnt. A switch is a pair of consecutive calls whose functions are defined in different files.
gnt/optim is a link to optim/, so files are compared by their resolved paths.

The limits are what a step takes now. The goals, which are not reached, are 16 files for a step that replaces units, and
12 files and 35 switches for one of a learner.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

import gnt

PACKAGE = Path(gnt.__file__).resolve().parent
OPTIM = (PACKAGE / "optim").resolve()
WARM_UP_STEPS = 5


class Limit(NamedTuple):
    """The most files and switches allowed: what a step takes now, so that no change lengthens its path unnoticed."""

    files: int
    switches: int


@functools.cache
def gnt_file(filename: str) -> str | None:
    """The path of a source file inside gnt ("gnt/optim/cbp.py"), or None for any other file."""
    path = Path(filename).resolve()
    for folder, name in ((OPTIM, "gnt/optim"), (PACKAGE, "gnt")):
        if path.is_relative_to(folder):
            return f"{name}/{path.relative_to(folder).as_posix()}"
    return None


def called_files(step: Callable[[], Any]) -> list[str]:
    """The file of each call into gnt that ``step`` makes, in order."""
    calls: list[str] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (file := gnt_file(frame.f_code.co_filename)) is not None:
            calls.append(file)

    sys.setprofile(profile)
    try:
        step()
    finally:
        sys.setprofile(None)
    return calls


def network() -> nn.Sequential:
    """A three-layer MLP."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def engine_step(replacement_rate: float, maturity_threshold: int) -> Callable[[], Any]:
    """``engine.step`` of a warm engine that has recorded the features of one more SGD step."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    engine = gnt.GnT(net, optimizer, replacement_rate=replacement_rate, maturity_threshold=maturity_threshold)

    def train() -> None:
        optimizer.zero_grad()
        net(torch.randn(8, 20)).square().mean().backward()
        optimizer.step()

    for _ in range(WARM_UP_STEPS):
        train()
        engine.step()
    train()
    return engine.step


def idle_step() -> Callable[[], Any]:
    """A step in which no unit is due for replacement."""
    return engine_step(replacement_rate=1e-4, maturity_threshold=100)


def replacing_step() -> Callable[[], Any]:
    """A step that replaces units in every layer."""
    return engine_step(replacement_rate=0.5, maturity_threshold=0)


def learner_step() -> Callable[[], Any]:
    """One call of a warm learner."""
    learner = gnt.ContinualBackprop(network(), opt="adam")
    x, y = torch.randn(8, 20), torch.randn(8, 4)
    for _ in range(WARM_UP_STEPS):
        learner.learn(x, y)
    return lambda: learner.learn(x, y)


STEPS: dict[str, tuple[Callable[[], Callable[[], Any]], Limit]] = {
    "engine.step(), nothing due": (idle_step, Limit(files=8, switches=12)),
    "engine.step(), replacing": (replacing_step, Limit(files=33, switches=180)),
    "learner.learn(x, y)": (learner_step, Limit(files=28, switches=72)),
}


def main() -> int:
    """Print the table. Returns 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(
        description="Print how many files of gnt one step runs through, and how often it switches between them.",
        epilog="Exit status 1 if a limit is exceeded.",
    )
    parser.add_argument("--files", action="store_true", help="list the files of each step in call order")
    options = parser.parse_args()
    exceeded = False
    print(f"{'step':<30}{'files':>6}{'limit':>7}{'switches':>10}{'limit':>7}")
    for name, (prepare, limit) in STEPS.items():
        calls = called_files(prepare())
        files = list(dict.fromkeys(calls))
        switches = sum(a != b for a, b in pairwise(calls))
        too_many = len(files) > limit.files or switches > limit.switches
        exceeded |= too_many
        note = "  exceeded" if too_many else ""
        print(f"{name:<30}{len(files):>6}{limit.files:>7}{switches:>10}{limit.switches:>7}{note}")
        if options.files:
            print(*(f"    {file}" for file in files), sep="\n")
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
