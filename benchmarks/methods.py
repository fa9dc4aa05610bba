"""The methods that are compared: a learner for each name, all with the same call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import gnt
from benchmarks.seeds import stream

Learner = gnt.Backprop | gnt.ContinualBackprop


def make_learner(method: str, net: nn.Module, settings: Any, *, loss: str, opt: str) -> Learner:
    """The learner of that name on ``net``, with the experiment's settings."""
    if method == "backprop":
        return gnt.Backprop(net, loss=loss, opt=opt, step_size=settings.step_size)
    return gnt.ContinualBackprop(
        net,
        loss=loss,
        opt=opt,
        step_size=settings.step_size,
        replacement_rate=settings.replacement_rate,
        maturity_threshold=settings.maturity_threshold,
        decay_rate=settings.decay_rate,
        utility=settings.utility,
        generator=stream(settings.seed, "replacements"),
    )


def with_seed(seed: int, build: Any) -> Any:
    """``build()`` with torch's own random numbers seeded, for modules that draw their initial weights from
    them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights").initial_seed())
        return build()
