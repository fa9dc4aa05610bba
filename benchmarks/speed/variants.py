"""The training variants that are timed: what each is compared with, and the target for that ratio.

To add a variant, add a row to `VARIANTS`. A variant that needs a package which is not installed is left out, and the
output says why.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import gnt
from gnt.names import OptimizerName
from gnt.optim import CBPSGD, AdamGnT, CBPAdam

from . import gpu_variants, third_party
from .networks import batches
from .step_runners import (
    STEP_SIZE,
    StepRunner,
    engine_settings,
    ensemble,
    learner,
    loop,
    masked,
    optimizer_alone,
)
from .workloads import GPU, LOOP, MANY, MASKS, STEP, TRACED, Workload

Build = Callable[[Workload], StepRunner]


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        name: as printed; unique among the variants of a kind.
        build: workload -> its runner.
        against: pairs of the variant whose time is the denominator of the ratio and the name of the target in
            ``Workload.targets`` (None: no target).
        kind: the kind of workloads that it is timed on.
        brief: whether it is also timed on workloads with ``Workload.brief``.
        graph: whether it compiles the whole network; then it is timed only on workloads with ``Workload.graphs``.
        missing: returns why it cannot run in this installation, or None.
    """

    name: str
    build: Build
    against: tuple[tuple[str, str | None], ...] = ()
    kind: str = LOOP
    brief: bool = False
    graph: bool = False
    missing: Callable[[], str | None] = lambda: None


def _third_party_missing() -> str | None:
    installed = importlib.util.find_spec(third_party.MODULE)
    return None if installed else f"{third_party.PACKAGE} is not installed"


def _sgd(net: nn.Module) -> Any:
    return torch.optim.SGD(net.parameters(), lr=STEP_SIZE)


def _adam(net: nn.Module, **options: Any) -> Any:
    return torch.optim.Adam(net.parameters(), lr=STEP_SIZE, **options)


def _adam_gnt(net: nn.Module, **options: Any) -> Any:
    return AdamGnT(net.parameters(), lr=STEP_SIZE, **options)


def _units(workload: Workload, net: nn.Module) -> Any:
    """What an engine takes: the network, or the units that `gnt.trace` finds in it."""
    return gnt.trace(net, next(batches(workload))[0]) if workload.net in TRACED else net


def _gnt(**options: Any) -> Build:
    return lambda w: loop(w, _sgd, lambda net, opt: gnt.GnT(_units(w, net), opt, **engine_settings(w), **options))


def _cbp(optimizer: Any, **options: Any) -> Build:
    steps = options.get("measure_every", 1)

    def make(workload: Workload, net: nn.Module) -> Any:
        units = {"layers": _units(workload, net)} if workload.net in TRACED else {}
        return optimizer(net, lr=STEP_SIZE, **units, **engine_settings(workload), **options)

    return lambda w: loop(w, partial(make, w), steps=steps)


def _learner(cls: Any, opt: OptimizerName, **options: Any) -> Build:
    return lambda w: learner(w, cls, opt, **options)


def _ensemble(opt: OptimizerName, **options: Any) -> Build:
    return lambda w: ensemble(w, opt, **options)


def _alone(make: Callable[..., Any], *, resets: bool = False, **options: Any) -> Build:
    return lambda w: optimizer_alone(w, partial(make, **options), resets=resets)


def _masked(make_optimizer: Callable[[nn.Module], Any], kind: Any, *, tasks: int, **settings: Any) -> Build:
    return lambda w: masked(w, make_optimizer, kind, tasks=tasks, **settings)


def _fine_grained(importance: str, *, every: int = 1, **settings: Any) -> Variant:
    """FG-AdaHAT with Adam, against AdaHAT; every ``every``-th step is measured."""
    build = _masked(
        _adam, gnt.FGAdaHAT, tasks=3, steps=every, alpha=0.1, importance=importance, every=every, **settings
    )
    name = f"{ADAM} + FG-AdaHAT, {importance}{f' every {every}' if every > 1 else ''}"
    target = "FG-AdaHAT" if every == 1 else "FG-AdaHAT, attribution"
    suffix = "" if settings.get("kernels", True) else TORCH
    return Variant(f"{name}{suffix}", build, ((f"{ADAM} + AdaHAT, third task", target),), kind=MASKS)


def _third_party(suffix: str, make_optimizer: Callable[[nn.Module], Any], against: str) -> Variant:
    return Variant(
        f"{third_party.PACKAGE}, {suffix}",
        lambda w: third_party.runner(w, make_optimizer),
        ((against, None),),
        missing=_third_party_missing,
    )


SGD, ADAM, FUSED = "SGD", "Adam", "Adam, fused"
TORCH = ", torch operations"  # the end of the name of variants without gnt's kernels
GRAPH = "SGD, torch.compile(net)"
LEARN, LEARN_GRAPH = "Backprop.learn", "Backprop.learn, compiled"
LEARN_ADAM = "ContinualBackprop.learn, Adam, one after another"
LEARN_SGD = "ContinualBackprop.learn, SGD, one after another"

VARIANTS = (
    # a full training step with SGD
    Variant(SGD, lambda w: loop(w, _sgd), brief=True),
    Variant("SGD + GnT", _gnt(), ((SGD, "sgd"),)),
    Variant(f"SGD + GnT{TORCH}", _gnt(kernels=False), ((SGD, None),)),
    Variant("CBPSGD", _cbp(CBPSGD), ((SGD, "sgd"),), brief=True),
    Variant("CBPSGD, measured every 8", _cbp(CBPSGD, measure_every=8), ((SGD, "sgd"),)),
    Variant(f"CBPSGD{TORCH}", _cbp(CBPSGD, kernels=False), ((SGD, None),), brief=True),
    _third_party("SGD", _sgd, SGD),
    # a full training step with Adam
    Variant(ADAM, lambda w: loop(w, _adam)),
    Variant(FUSED, lambda w: loop(w, partial(_adam, fused=True)), ((ADAM, None),), brief=True),
    Variant("CBPAdam", _cbp(CBPAdam), ((FUSED, "adam"),), brief=True),
    Variant("CBPAdam, measured every 8", _cbp(CBPAdam, measure_every=8), ((FUSED, "adam"),)),
    Variant(f"CBPAdam{TORCH}", _cbp(CBPAdam, fused=True, kernels=False), ((FUSED, None),), brief=True),
    _third_party(FUSED, partial(_adam, fused=True), FUSED),
    # learners
    Variant(LEARN, _learner(gnt.Backprop, "sgd"), ((SGD, None),)),
    Variant("ContinualBackprop.learn", _learner(gnt.ContinualBackprop, "sgd"), ((LEARN, "sgd"),)),
    Variant(GRAPH, lambda w: loop(w, _sgd, wrap=torch.compile), ((SGD, None),), graph=True),
    Variant(LEARN_GRAPH, _learner(gnt.Backprop, "sgd", compile=True), ((SGD, None),), graph=True),
    Variant(
        "ContinualBackprop.learn, compiled",
        _learner(gnt.ContinualBackprop, "sgd", compile=True),
        ((SGD, "graph"), (GRAPH, None), (LEARN_GRAPH, "sgd")),
        graph=True,
    ),
    # the optimizer's step alone
    Variant(ADAM, _alone(_adam), kind=STEP),
    Variant(FUSED, _alone(_adam, fused=True), ((ADAM, None),), kind=STEP),
    Variant("AdamGnT, never reset", _alone(_adam_gnt), ((FUSED, "never reset"),), kind=STEP),
    Variant("AdamGnT, after resets", _alone(_adam_gnt, resets=True), ((FUSED, "reset"),), kind=STEP),
    Variant(f"AdamGnT, never reset{TORCH}", _alone(_adam_gnt, fused=True, kernels=False), ((FUSED, None),), kind=STEP),
    Variant(
        f"AdamGnT, after resets{TORCH}",
        _alone(_adam_gnt, resets=True, fused=True, kernels=False),
        ((ADAM, "reset, torch operations"), (FUSED, None)),
        kind=STEP,
    ),
    # task masks
    *(
        variant
        for name, make in ((SGD, _sgd), (ADAM, _adam))
        for variant in (
            Variant(name, partial(loop, make_optimizer=make), kind=MASKS),
            Variant(f"{name} + HAT, first task", _masked(make, gnt.HAT, tasks=1), ((name, "first task"),), kind=MASKS),
            Variant(f"{name} + HAT, third task", _masked(make, gnt.HAT, tasks=3), ((name, "HAT"),), kind=MASKS),
            Variant(
                f"{name} + AdaHAT, third task",
                _masked(make, gnt.AdaHAT, tasks=3, alpha=0.1),
                ((name, "AdaHAT"),),
                kind=MASKS,
            ),
        )
    ),
    _fine_grained("contribution"),
    _fine_grained("contribution", kernels=False),
    _fine_grained("incoming_fisher_activation"),
    *(_fine_grained(name, every=20) for name in ("gradient_activation", "deeplift", "internal_influence")),
    # many networks
    Variant(LEARN_SGD, _learner(gnt.ContinualBackprop, "sgd"), kind=MANY),
    Variant("Ensemble.learn, SGD", _ensemble("sgd"), ((LEARN_SGD, "ensemble"),), kind=MANY),
    Variant("Ensemble.learn, SGD, compiled", _ensemble("sgd", compile=True), ((LEARN_SGD, "ensemble"),), kind=MANY),
    Variant(LEARN_ADAM, _learner(gnt.ContinualBackprop, "adam"), kind=MANY),
    Variant("Ensemble.learn, Adam", _ensemble("adam"), ((LEARN_ADAM, "ensemble"),), kind=MANY),
    Variant("Ensemble.learn, Adam, compiled", _ensemble("adam", compile=True), ((LEARN_ADAM, "ensemble"),), kind=MANY),
    # on a GPU
    *(
        Variant(name, build, against, kind=GPU, brief=name in gpu_variants.BRIEF)
        for name, build, against in gpu_variants.ROWS
    ),
)


def variants_of(workload: Workload) -> list[Variant]:
    """The variants that are timed on a workload, including those that cannot run here."""
    return [
        one
        for one in VARIANTS
        if one.kind == workload.kind and (one.brief or not workload.brief) and (workload.graphs or not one.graph)
    ]
