"""Training that saves itself as it goes, to be killed and taken up again: ``python -m tests.replacement.resume_run``.

    start FOLDER     begins, saves every few steps, and never ends: it waits to be killed
    go-on FOLDER     builds everything anew from another seed, loads what was saved last, and trains to the end
    whole FOLDER     trains from the first step to the last, without a break

The last two write all that there is at the end to FOLDER/go-on.pt and FOLDER/whole.pt.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, batch, conv_net

STEPS = 26
SAVE_EVERY = 5


class WithLearner:
    """A learner: its state is one dict."""

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


class WithLoop:
    """A loop of one's own, with an engine beside the optimizer or with layers inside the network."""

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


def build(seed: int) -> dict[str, WithLearner | WithLoop]:
    torch.manual_seed(seed)
    return {
        "sgd": WithLearner(opt="sgd", step_size=0.05, momentum=0.9, weight_decay=1e-3),
        "sgd, drawn": WithLearner(opt="sgd", step_size=0.05, momentum=0.9, accumulate=False),
        "adamgnt": WithLearner(opt="adam", amsgrad=True, utility="adaptable_contribution"),
        "adamgnt, drawn": WithLearner(opt="adamw", accumulate=False, init="xavier"),
        "own loop": WithLoop(torch.optim.RMSprop, utility="random"),
        "own loop, adamgnt": WithLoop(gnt.AdamGnT, accumulate=False, bias_transfer=False),
        "own loop, algorithm 1": WithLoop(torch.optim.SGD, **gnt.ALGORITHM_1),
        "layers": WithLoop(torch.optim.Adam, layers=True),
        "layers, drawn": WithLoop(gnt.AdamGnT, layers=True, accumulate=False, utility="random"),
    }


def write(path: Path, content: Any) -> None:
    torch.save(content, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def main(what: str, folder: Path) -> None:
    torch.set_num_threads(1)
    runs = build(seed=7 if what == "go-on" else 0)
    first = 0
    if what == "go-on":
        saved = torch.load(folder / "saved.pt", weights_only=True)
        first = saved["steps"]
        for name, run in runs.items():
            run.load_state_dict(saved[name])
    for t in count(first) if what == "start" else range(first, STEPS):
        for run in runs.values():
            run.learn(t)
        done = t + 1
        if what == "start" and done % SAVE_EVERY == 0 and done < STEPS:
            write(folder / "saved.pt", {"steps": done, **{name: run.state_dict() for name, run in runs.items()}})
        print(done, flush=True)
    write(folder / f"{what}.pt", {name: run.state_dict() for name, run in runs.items()})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
