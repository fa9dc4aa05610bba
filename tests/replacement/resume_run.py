"""Training runs for the test of resuming, of which `main` executes one in a process of its own:

    start           train and save a checkpoint every few steps, until the process is killed
    resume          build everything with another seed, load the last checkpoint, and train to the last step
    uninterrupted   train from the first step to the last

The last two write the final state to the files resume.pt and uninterrupted.pt.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, batch, conv_net

STEPS = 26
SAVE_EVERY = 5


class LearnerRun:
    """A run of `ContinualBackprop`, whose state is one dict."""

    def __init__(self, **settings: Any) -> None:
        self.learner = gnt.ContinualBackprop(
            conv_net(int(torch.initial_seed())), **{**FREQUENT_REPLACEMENT, **settings}
        )

    def learn(self, t: int) -> None:
        self.learner.learn(*batch(t, 1, 8, 8))

    def state_dict(self) -> dict[str, Any]:
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state)


class LoopRun:
    """A custom training loop, with a `GnT` stepped after the optimizer or with CBP layers in the network."""

    def __init__(self, make: Callable[..., torch.optim.Optimizer], *, layers: bool = False, **settings: Any) -> None:
        self.net = conv_net(int(torch.initial_seed()))
        self.engine = None if layers else gnt.GnT(self.net, **FREQUENT_REPLACEMENT, **settings)
        if layers:
            conv1, norm, relu, conv2, _, pool, flatten, fc1, tanh, fc2 = self.net
            self.net = nn.Sequential(
                *(
                    conv1,
                    norm,
                    relu,
                    gnt.CBPConv(conv1, conv2, norms=norm, **FREQUENT_REPLACEMENT, **settings),
                    conv2,
                    relu,
                    pool,
                ),
                *(flatten, gnt.CBPConv(conv2, fc1, **FREQUENT_REPLACEMENT, **settings)),
                *(fc1, tanh, gnt.CBPLinear(fc1, fc2, activation="tanh", **FREQUENT_REPLACEMENT, **settings), fc2),
            )
        self.opt = make(self.net.parameters(), lr=0.01)
        if self.engine is not None:
            self.engine.optimizer = self.opt

    def learn(self, t: int) -> None:
        x, y = batch(t, 1, 8, 8)
        self.opt.zero_grad()
        F.mse_loss(self.net(x), y).backward()
        self.opt.step()
        if self.engine is not None:
            self.engine.step()

    def state_dict(self) -> dict[str, Any]:
        engine = {} if self.engine is None else {"engine": self.engine.state_dict()}
        return {"net": self.net.state_dict(), "opt": self.opt.state_dict(), **engine}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.opt.load_state_dict(state["opt"])
        if self.engine is not None:
            self.engine.load_state_dict(state["engine"])


def build(seed: int) -> dict[str, LearnerRun | LoopRun]:
    torch.manual_seed(seed)
    return {
        "sgd": LearnerRun(opt="sgd", step_size=0.05, momentum=0.9, weight_decay=1e-3),
        "sgd, stochastic counts": LearnerRun(opt="sgd", step_size=0.05, momentum=0.9, accumulate=False),
        "adamgnt": LearnerRun(opt="adam", amsgrad=True, utility="adaptable_contribution"),
        "adamgnt, stochastic counts": LearnerRun(opt="adamw", accumulate=False, init="xavier"),
        "custom loop": LoopRun(torch.optim.RMSprop, utility="random"),
        "custom loop, adamgnt": LoopRun(gnt.AdamGnT, accumulate=False, bias_transfer=False),
        "custom loop, algorithm 1": LoopRun(torch.optim.SGD, **gnt.ALGORITHM_1),
        "custom loop, measured in every third update": LoopRun(
            torch.optim.SGD, utility="gradient_activation", measure_every=3
        ),
        "layers": LoopRun(torch.optim.Adam, layers=True, measure_every=2),
        "layers, stochastic counts": LoopRun(gnt.AdamGnT, layers=True, accumulate=False, utility="random"),
    }


def save(path: Path, content: Any) -> None:
    torch.save(content, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def main(mode: str, folder: Path, steps: Connection) -> None:
    """Execute a run; after each step its number is sent to ``steps``."""
    torch.set_num_threads(1)
    runs = build(seed=7 if mode == "resume" else 0)
    first = 0
    if mode == "resume":
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        first = saved["steps"]
        for name, run in runs.items():
            run.load_state_dict(saved[name])
    for t in count(first) if mode == "start" else range(first, STEPS):
        for run in runs.values():
            run.learn(t)
        done = t + 1
        if mode == "start" and done % SAVE_EVERY == 0 and done < STEPS:
            save(folder / "checkpoint.pt", {"steps": done, **{name: run.state_dict() for name, run in runs.items()}})
        steps.send(done)
    save(folder / f"{mode}.pt", {name: run.state_dict() for name, run in runs.items()})
