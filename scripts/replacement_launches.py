"""Launches and time of one replacement on a GPU, by Triton kernels and by torch operations.

The network is 784-2000x3-10, and one unit of each of the three hidden layers is replaced. Counted is what runs on the
GPU from `GnT.select` to the end of `GnT.replace`: kernels, and copies of memory. The time is that of the host, which is
what a training loop waits for.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import gnt

WIDTHS = (784, 2000, 2000, 2000, 10)
OPTIMIZERS = {"SGD": partial(torch.optim.SGD, lr=1e-6), "AdamGnT": partial(gnt.AdamGnT, lr=1e-6)}


def make_engine(make_optimizer: Any, kernels: bool | None) -> tuple[gnt.GnT, Any]:
    """An engine that replaces one unit of each layer in each step, and a step of its optimizer."""
    torch.manual_seed(0)
    layers = [module for a, b in pairwise(WIDTHS) for module in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*layers[:-1]).cuda()
    optimizer = make_optimizer(net.parameters())
    rate = 1 / WIDTHS[1]
    engine = gnt.GnT(net, optimizer, replacement_rate=rate, maturity_threshold=0, accumulate="one", kernels=kernels)
    x = torch.randn(16, WIDTHS[0], device="cuda")

    def update() -> None:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        engine.update()

    return engine, update


def measure(make_optimizer: Any, kernels: bool | None) -> tuple[int, float]:
    """The number of launches, and seconds on the host."""
    engine, update = make_engine(make_optimizer, kernels)
    seconds, counts = [], []
    for step in range(30):
        update()
        torch.cuda.synchronize()
        if step < 20:
            start = time.perf_counter()
            engine.replace(engine.select())
            seconds.append(time.perf_counter() - start)
            continue
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            units = engine.select()
            engine.replace(units)
            torch.cuda.synchronize()
        if all(map(len, units)):
            events = found.events() or []
            counts.append(sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events))
    return int(statistics.median(counts)), statistics.median(seconds[10:])


def main() -> None:
    """Print one line for each optimizer."""
    if not torch.cuda.is_available():
        sys.exit("error: torch finds no CUDA device")
    for name, make_optimizer in OPTIMIZERS.items():
        texts = []
        for kernels, what in ((None, "Triton kernels"), (False, "torch operations")):
            launches, seconds = measure(make_optimizer, kernels)
            texts.append(f"{launches} launches and {seconds * 1e6:.0f} us of the host by {what}")
        print(f"replacement of 3 units beside {name}: {', '.join(texts)}")


if __name__ == "__main__":
    main()
