"""The entrants: all ways to train that are timed, whom each is compared with, and which ratio is aimed at.

A new entrant is one row of `VARIANTS`. Rows that this installation cannot run say why, and are left out.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import gnt
from benchmarks.speed import third_party
from benchmarks.speed.step_runners import (
    STEP_SIZE,
    StepRunner,
    engine_settings,
    ensemble,
    learner,
    loop,
    optimizer_alone,
)
from benchmarks.speed.workloads import LOOP, MANY, STEP, Workload
from gnt.optim import CBPSGD, AdamGnT, CBPAdam
from gnt.replacement.engine import ENGINE_SETTINGS

Build = Callable[[Workload], StepRunner]


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        name: as printed; unique among the entrants of a kind.
        build: makes it, for a workload.
        against: whose time it is divided by, and the name of the target in ``Workload.targets`` (None: for the record).
        kind: the workloads that it takes part in.
        brief: whether it takes part in ``Workload.brief`` ones.
        graph: it compiles the whole network; for ``Workload.graphs`` ones only.
        missing: why it cannot run here; None where it can.
    """

    name: str
    build: Build
    against: tuple[tuple[str, str | None], ...] = ()
    kind: str = LOOP
    brief: bool = False
    graph: bool = False
    missing: Callable[[], str | None] = lambda: None


def compile_flag(owner: Any) -> Callable[[], str | None]:
    """A check of whether ``owner`` takes compile=True: by itself, or as a setting of its optimizer or its engine."""

    def missing() -> str | None:
        names = set(inspect.signature(owner).parameters)
        if hasattr(owner, "_base"):
            names |= {*inspect.signature(owner._base).parameters, *ENGINE_SETTINGS}
        return None if "compile" in names else "this gnt has no compile=True for it"

    return missing


def _no_rival() -> str | None:
    return None if importlib.util.find_spec(third_party.MODULE) else f"{third_party.PACKAGE} is not installed"


def _sgd(net: nn.Module) -> Any:
    return torch.optim.SGD(net.parameters(), lr=STEP_SIZE)


def _adam(net: nn.Module, **options: Any) -> Any:
    return torch.optim.Adam(net.parameters(), lr=STEP_SIZE, **options)


def _adam_gnt(net: nn.Module, **options: Any) -> Any:
    return AdamGnT(net.parameters(), lr=STEP_SIZE, fused=True, **options)


def _gnt(**options: Any) -> Build:
    return lambda w: loop(w, _sgd, lambda net, opt: gnt.GnT(net, opt, **engine_settings(w), **options))


def _cbp(optimizer: Any, **options: Any) -> Build:
    return lambda w: loop(w, lambda net: optimizer(net, lr=STEP_SIZE, **engine_settings(w), **options))


def _alone(make: Callable[..., Any], *, resets: bool = False, **options: Any) -> Build:
    return lambda w: optimizer_alone(w, partial(make, **options), resets=resets)


SGD, ADAM, FUSED = "SGD", "Adam", "Adam, fused"
GRAPH = "SGD, torch.compile(net)"
LEARN = "Backprop.learn"
LEARN_ADAM = "ContinualBackprop.learn, Adam, one after another"
LEARN_SGD = "ContinualBackprop.learn, SGD, one after another"

VARIANTS = (
    Variant(SGD, lambda w: loop(w, _sgd), brief=True),
    Variant("SGD + GnT", _gnt(), ((SGD, "sgd"),)),
    Variant("SGD + GnT, compiled", _gnt(compile=True), ((SGD, "sgd"),), missing=compile_flag(gnt.GnT)),
    Variant("CBPSGD", _cbp(CBPSGD), ((SGD, "sgd"),), brief=True),
    Variant(
        "CBPSGD, compiled",
        _cbp(CBPSGD, compile=True),
        ((SGD, "sgd"),),
        brief=True,
        missing=compile_flag(CBPSGD),
    ),
    Variant(f"{third_party.PACKAGE}, SGD", lambda w: third_party.runner(w, _sgd), ((SGD, None),), missing=_no_rival),
    Variant(ADAM, lambda w: loop(w, _adam)),
    Variant(FUSED, lambda w: loop(w, partial(_adam, fused=True)), ((ADAM, None),), brief=True),
    Variant("CBPAdam, fused", _cbp(CBPAdam, fused=True), ((FUSED, "adam"),), brief=True),
    Variant(
        "CBPAdam, fused, compiled",
        _cbp(CBPAdam, fused=True, compile=True),
        ((FUSED, "adam"),),
        brief=True,
        missing=compile_flag(CBPAdam),
    ),
    Variant(
        f"{third_party.PACKAGE}, Adam, fused",
        lambda w: third_party.runner(w, partial(_adam, fused=True)),
        ((FUSED, None),),
        missing=_no_rival,
    ),
    Variant(LEARN, lambda w: learner(w, gnt.Backprop, "sgd"), ((SGD, None),)),
    Variant("ContinualBackprop.learn", lambda w: learner(w, gnt.ContinualBackprop, "sgd"), ((LEARN, "sgd"),)),
    Variant(GRAPH, lambda w: loop(w, _sgd, wrap=torch.compile), ((SGD, None),), graph=True),
    Variant(
        "Backprop.learn, compiled",
        lambda w: learner(w, gnt.Backprop, "sgd", compile=True),
        ((SGD, None),),
        graph=True,
        missing=compile_flag(gnt.Backprop),
    ),
    Variant(
        "ContinualBackprop.learn, compiled",
        lambda w: learner(w, gnt.ContinualBackprop, "sgd", compile=True),
        ((SGD, "graph"), (GRAPH, None), ("Backprop.learn, compiled", "sgd")),
        graph=True,
        missing=compile_flag(gnt.ContinualBackprop),
    ),
    # the optimizer's step alone
    Variant(ADAM, _alone(_adam), kind=STEP),
    Variant(FUSED, _alone(_adam, fused=True), ((ADAM, None),), kind=STEP),
    Variant("AdamGnT, never reset", _alone(_adam_gnt), ((FUSED, "never reset"),), kind=STEP),
    Variant("AdamGnT, after resets", _alone(_adam_gnt, resets=True), ((ADAM, "reset"), (FUSED, None)), kind=STEP),
    Variant(
        "AdamGnT, never reset, compiled",
        _alone(_adam_gnt, compile=True),
        ((FUSED, "never reset"),),
        kind=STEP,
        missing=compile_flag(AdamGnT),
    ),
    Variant(
        "AdamGnT, after resets, compiled",
        _alone(_adam_gnt, resets=True, compile=True),
        ((FUSED, "reset, compiled"),),
        kind=STEP,
        missing=compile_flag(AdamGnT),
    ),
    # many networks
    Variant(LEARN_SGD, lambda w: learner(w, gnt.ContinualBackprop, "sgd"), kind=MANY),
    Variant("Ensemble.learn, SGD", lambda w: ensemble(w, "sgd"), ((LEARN_SGD, "ensemble"),), kind=MANY),
    Variant(
        "Ensemble.learn, SGD, compiled",
        lambda w: ensemble(w, "sgd", compile=True),
        ((LEARN_SGD, "ensemble"),),
        kind=MANY,
    ),
    Variant(LEARN_ADAM, lambda w: learner(w, gnt.ContinualBackprop, "adam"), kind=MANY),
    Variant("Ensemble.learn, Adam", lambda w: ensemble(w, "adam"), ((LEARN_ADAM, "ensemble"),), kind=MANY),
    Variant(
        "Ensemble.learn, Adam, compiled",
        lambda w: ensemble(w, "adam", compile=True),
        ((LEARN_ADAM, "ensemble"),),
        kind=MANY,
    ),
)


def variants_of(workload: Workload) -> list[Variant]:
    """The entrants of a workload, those included that cannot run here."""
    return [
        one
        for one in VARIANTS
        if one.kind == workload.kind and (one.brief or not workload.brief) and (workload.graphs or not one.graph)
    ]
