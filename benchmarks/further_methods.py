"""The field's further methods against loss of plasticity: optimizers and what is applied beside the learner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import gnt
from gnt.optim import UPGD


def own_optimizer(
    name: str, settings: Any, opt: str, options: dict[str, Any], generators: Sequence[torch.Generator]
) -> Callable[[Iterable[Tensor]], Optimizer] | None:
    """How the optimizer of a method that is one is built from parameters; None for other methods.

    Args:
        name: name of the method.
        settings: the experiment's settings.
        opt: "sgd", "adam" or "adamw": UPGD's form, without Adam's step or with it.
        options: options of torch's optimizer.
        generators: one for each seed.
    """
    if name != "upgd":
        return None
    betas = None if opt == "sgd" else options.get("betas", (0.9, 0.999))
    own = {"lr": settings.lr, "weight_decay": settings.weight_decay, "sigma": settings.sigma, "betas": betas}
    return lambda params: UPGD(params, **own, decay_rate=settings.utility_decay, generator=list(generators))


def soft_replacement(name: str, settings: Any) -> dict[str, Any]:
    """The engine's settings for soft replacement; empty for other methods."""
    if name != "ccbp":
        return {}
    return {
        "soft": gnt.SoftReplacement(settings.soft_rate, period=settings.soft_period),
        "utility": "gradient",
        "decay_rate": 0.99,
        "bias_transfer": False,
    }


def further_remedy(name: str, settings: Any, net: nn.Module, opt: Optimizer, generator: Any) -> Any:
    """What is applied beside the learner; None for methods without it.

    Args:
        name: name of the method.
        settings: the experiment's settings.
        net, opt: the learner's.
        generator: one generator, or a list with one for each seed of an ensemble.
    """
    if name == "swr":
        own = {"select": "proportional", "factor": settings.swr_share, "period": settings.swr_period}
        return gnt.SWR(net, opt, **own, generator=generator)
    if name == "snr":
        return gnt.SNR(net, opt, eta=settings.eta, estimate_every=settings.estimate_every, generator=generator)
    if name == "fire":
        return gnt.FIRE(net)
    if name == "spectral":
        first = generator[0] if isinstance(generator, list) else generator
        # each seed's power iteration begins with the same vector, whether or not seeds are trained together
        return gnt.Spectral(net, settings.spectral, generator=first.manual_seed(0))
    if name == "parseval":
        return gnt.Parseval(net, settings.parseval)
    return None
