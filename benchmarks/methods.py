"""The methods that are compared: a learner for each name, all with the same call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import gnt
from benchmarks.seeds import stream

Learner = gnt.Backprop | gnt.ContinualBackprop


def make_ensemble(
    method: str, make_net: Callable[[], nn.Module], settings: Any, *, loss: str, opt: str
) -> gnt.Ensemble:
    """All seeds of the settings as one learner; each member is what `make_learner` makes of its seed alone."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    own: dict[str, Any] = {"replacement_rate": 0.0}
    if method == "continual_backprop":
        names = ("replacement_rate", "maturity_threshold", "decay_rate", "utility")
        own = {name: getattr(settings, name) for name in names}
        own["generators"] = [stream(seed, "replacements") for seed in seeds]
    weights = [stream(seed, "weights").initial_seed() for seed in seeds]
    compiled = settings.compile == "yes"
    return gnt.Ensemble(make_net, weights, loss=loss, opt=opt, step_size=settings.step_size, compile=compiled, **own)


def make_learner(method: str, net: nn.Module, settings: Any, *, loss: str, opt: str) -> Learner:
    """The learner of that name on ``net``, with the experiment's settings."""
    compiled = getattr(settings, "compile", "no") == "yes"
    if method == "backprop":
        return gnt.Backprop(net, loss=loss, opt=opt, step_size=settings.step_size, compile=compiled)
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
        compile=compiled,
    )


def with_seed(seed: int, build: Any) -> Any:
    """``build()`` with torch's own random numbers seeded, for modules that draw their initial weights from
    them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights").initial_seed())
        return build()
