"""The entrants: all ways to train that are timed, whom each is compared with, and which ratio is aimed at.

A new entrant is one row of `ENTRANTS`. Rows that this installation cannot run say why, and are left out.
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
from benchmarks.speed import rival
from benchmarks.speed.runners import STEP_SIZE, Runner, engine_settings, ensemble, learner, loop, optimizer_alone
from benchmarks.speed.workloads import LOOP, MANY, STEP, Workload
from gnt.optim import CBPSGD, AdamGnT, CBPAdam
from gnt.replacement import ENGINE_SETTINGS

Build = Callable[[Workload], Runner]


@dataclass(frozen=True)
class Entrant:
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


def takes(flag: str, owner: Any) -> Callable[[], str | None]:
    """A check of whether ``owner`` takes the flag: by itself, or as a setting of its optimizer or its engine."""

    def missing() -> str | None:
        names = set(inspect.signature(owner).parameters)
        if hasattr(owner, "_base"):
            names |= {*inspect.signature(owner._base).parameters, *ENGINE_SETTINGS}
        return None if flag in names else f"this gnt has no {flag}=True for it"

    return missing


def _no_rival() -> str | None:
    return None if importlib.util.find_spec(rival.MODULE) else f"{rival.PACKAGE} is not installed"


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

ENTRANTS = (
    Entrant(SGD, lambda w: loop(w, _sgd), brief=True),
    Entrant("SGD + GnT", _gnt(), ((SGD, "sgd"),)),
    Entrant("SGD + GnT, compiled", _gnt(kernels=True), ((SGD, "sgd"),), missing=takes("kernels", gnt.GnT)),
    Entrant("CBPSGD", _cbp(CBPSGD), ((SGD, "sgd"),), brief=True),
    Entrant(
        "CBPSGD, compiled",
        _cbp(CBPSGD, kernels=True),
        ((SGD, "sgd"),),
        brief=True,
        missing=takes("kernels", CBPSGD),
    ),
    Entrant(f"{rival.PACKAGE}, SGD", lambda w: rival.runner(w, _sgd), ((SGD, None),), missing=_no_rival),
    Entrant(ADAM, lambda w: loop(w, _adam)),
    Entrant(FUSED, lambda w: loop(w, partial(_adam, fused=True)), ((ADAM, None),), brief=True),
    Entrant("CBPAdam, fused", _cbp(CBPAdam, fused=True), ((FUSED, "adam"),), brief=True),
    Entrant(
        "CBPAdam, fused, compiled",
        _cbp(CBPAdam, fused=True, kernels=True),
        ((FUSED, "adam"),),
        brief=True,
        missing=takes("kernels", CBPAdam),
    ),
    Entrant(
        f"{rival.PACKAGE}, Adam, fused",
        lambda w: rival.runner(w, partial(_adam, fused=True)),
        ((FUSED, None),),
        missing=_no_rival,
    ),
    Entrant(LEARN, lambda w: learner(w, gnt.Backprop, "sgd"), ((SGD, None),)),
    Entrant("ContinualBackprop.learn", lambda w: learner(w, gnt.ContinualBackprop, "sgd"), ((LEARN, "sgd"),)),
    Entrant(GRAPH, lambda w: loop(w, _sgd, wrap=torch.compile), ((SGD, None),), graph=True),
    Entrant(
        "Backprop.learn, compiled",
        lambda w: learner(w, gnt.Backprop, "sgd", compile=True),
        ((SGD, None),),
        graph=True,
        missing=takes("compile", gnt.Backprop),
    ),
    Entrant(
        "ContinualBackprop.learn, compiled",
        lambda w: learner(w, gnt.ContinualBackprop, "sgd", compile=True),
        ((SGD, "graph"), (GRAPH, None), ("Backprop.learn, compiled", "sgd")),
        graph=True,
        missing=takes("compile", gnt.ContinualBackprop),
    ),
    # the optimizer's step alone
    Entrant(ADAM, _alone(_adam), kind=STEP),
    Entrant(FUSED, _alone(_adam, fused=True), ((ADAM, None),), kind=STEP),
    Entrant("AdamGnT, never reset", _alone(_adam_gnt), ((FUSED, "never reset"),), kind=STEP),
    Entrant("AdamGnT, after resets", _alone(_adam_gnt, resets=True), ((ADAM, "reset"), (FUSED, None)), kind=STEP),
    Entrant(
        "AdamGnT, never reset, compiled",
        _alone(_adam_gnt, kernels=True),
        ((FUSED, "never reset"),),
        kind=STEP,
        missing=takes("kernels", AdamGnT),
    ),
    Entrant(
        "AdamGnT, after resets, compiled",
        _alone(_adam_gnt, resets=True, kernels=True),
        ((FUSED, "reset, compiled"),),
        kind=STEP,
        missing=takes("kernels", AdamGnT),
    ),
    # many networks
    Entrant(LEARN_SGD, lambda w: learner(w, gnt.ContinualBackprop, "sgd"), kind=MANY),
    Entrant("Ensemble.learn, SGD", lambda w: ensemble(w, "sgd"), ((LEARN_SGD, "ensemble"),), kind=MANY),
    Entrant(
        "Ensemble.learn, SGD, compiled",
        lambda w: ensemble(w, "sgd", compile=True),
        ((LEARN_SGD, "ensemble"),),
        kind=MANY,
    ),
    Entrant(LEARN_ADAM, lambda w: learner(w, gnt.ContinualBackprop, "adam"), kind=MANY),
    Entrant("Ensemble.learn, Adam", lambda w: ensemble(w, "adam"), ((LEARN_ADAM, "ensemble"),), kind=MANY),
    Entrant(
        "Ensemble.learn, Adam, compiled",
        lambda w: ensemble(w, "adam", compile=True),
        ((LEARN_ADAM, "ensemble"),),
        kind=MANY,
    ),
)


def taking_part(workload: Workload) -> list[Entrant]:
    """The entrants of a workload, those included that cannot run here."""
    return [
        one
        for one in ENTRANTS
        if one.kind == workload.kind and (one.brief or not workload.brief) and (workload.graphs or not one.graph)
    ]
