"""The variants that are timed on a GPU: full training steps, launched one by one and as one captured CUDA graph.

In the captured ones, `gnt.GnT.after_replay` follows each replay, which replaces units outside of the graph.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import gnt
from gnt.optim import CBPSGD, CBPAdam

from .networks import LOSSES, batches, make_net
from .step_runners import STEP_SIZE, StepRunner, engine_settings
from .workloads import TRACED, Workload

Make = Callable[[nn.Module], Any]  # network -> optimizer
Build = Callable[[nn.Module, Any], Any]  # network, its units -> optimizer, or optimizer and engine
WARM_UP = 5  # steps before the capture

SGD, FOREACH, FUSED = "SGD", "Adam, foreach", "Adam, fused"
SGD_GRAPH, FUSED_GRAPH = "SGD, captured", "Adam, fused, captured"


def sgd(net: nn.Module) -> Any:
    """Torch's SGD."""
    return torch.optim.SGD(net.parameters(), lr=STEP_SIZE)


def adam(net: nn.Module, **options: Any) -> Any:
    """Torch's Adam."""
    return torch.optim.Adam(net.parameters(), lr=STEP_SIZE, **options)


def plain(make: Make) -> Build:
    """The optimizer alone."""
    return lambda net, units: (make(net), None)


def with_engine(workload: Workload, make: Make, *, due: bool = True, **options: Any) -> Build:
    """An optimizer with an engine. ``due``: units are replaced."""

    def build(net: nn.Module, units: Any) -> Any:
        optimizer = make(net)
        return optimizer, gnt.GnT(units, optimizer, **_settings(workload, due), **options).attach()

    return build


def cbp(workload: Workload, kind: Any, *, due: bool = True, **options: Any) -> Build:
    """An optimizer of `gnt.optim`. ``due``: units are replaced."""

    def build(net: nn.Module, units: Any) -> Any:
        optimizer = kind(net, lr=STEP_SIZE, layers=units, **_settings(workload, due), **options)
        return optimizer, optimizer.gnt

    return build


def _settings(workload: Workload, due: bool) -> dict[str, Any]:
    settings = {name: value for name, value in engine_settings(workload).items() if name != "generator"}
    return settings if due else {**settings, "replacement_rate": 0.0}


@functools.lru_cache(maxsize=1)
def _net_and_units(net_name: tuple[int, ...] | str) -> tuple[nn.Module, Any]:
    """A network on the CPU, with its units: those of a list of layers, or those that `gnt.trace` finds."""
    workload = Workload("", net_name, 1, "mse")
    net = make_net(workload)
    return net, tuple(gnt.trace(net, next(batches(workload))[0]) if net_name in TRACED else gnt.walk(net))


def _built(workload: Workload, build: Build) -> tuple[nn.Module, Any, Any]:
    """Network on the GPU, optimizer, engine."""
    net, units = copy.deepcopy(_net_and_units(workload.net))
    net.to(workload.device)
    return (net, *build(net, units))


def launched(workload: Workload, build: Build) -> StepRunner:
    """A plain training loop."""
    net, optimizer, engine = _built(workload, build)
    data, loss = batches(workload), LOSSES[workload.loss]

    def step() -> None:
        x, y = next(data)
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()

    return StepRunner(step, [net], optimizer, engine)


def captured(workload: Workload, build: Build) -> StepRunner:
    """Copy the batch, replay the graph of the whole step, and let the engine finish it."""
    net, optimizer, engine = _built(workload, build)
    data, loss = batches(workload), LOSSES[workload.loss]
    x, y = (tensor.clone() for tensor in next(data))

    def train() -> None:
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            train()
    torch.cuda.current_stream().wait_stream(stream)
    optimizer.zero_grad()
    with torch.cuda.graph(graph):
        train()

    def step() -> None:
        x_new, y_new = next(data)
        x.copy_(x_new)
        y.copy_(y_new)
        graph.replay()
        if engine is not None:
            engine.after_replay()

    return StepRunner(step, [net], optimizer, engine)


# those that are timed on workloads with `Workload.brief`
BRIEF = (
    *(SGD, "SGD + GnT", "SGD + GnT, none due", SGD_GRAPH, "SGD + GnT, captured", "SGD + GnT, captured, none due"),
    *(FUSED, "CBPAdam", "CBPAdam, none due", FUSED_GRAPH, "CBPAdam, captured", "CBPAdam, captured, none due"),
)
ROWS: tuple[tuple[str, Callable[[Workload], StepRunner], tuple[tuple[str, str | None], ...]], ...] = (
    (SGD, lambda w: launched(w, plain(sgd)), ()),
    ("SGD + GnT", lambda w: launched(w, with_engine(w, sgd)), ((SGD, "sgd"),)),
    ("SGD + GnT, none due", lambda w: launched(w, with_engine(w, sgd, due=False)), ((SGD, None),)),
    ("SGD + GnT, torch operations", lambda w: launched(w, with_engine(w, sgd, kernels=False)), ((SGD, None),)),
    ("CBPSGD", lambda w: launched(w, cbp(w, CBPSGD)), ((SGD, "sgd"),)),
    (FOREACH, lambda w: launched(w, plain(partial(adam, foreach=True))), ()),
    (FUSED, lambda w: launched(w, plain(partial(adam, fused=True))), ((FOREACH, None),)),
    ("CBPAdam", lambda w: launched(w, cbp(w, CBPAdam)), ((FUSED, "adam"), (FOREACH, None))),
    ("CBPAdam, none due", lambda w: launched(w, cbp(w, CBPAdam, due=False)), ((FUSED, None),)),
    ("CBPAdam, torch operations", lambda w: launched(w, cbp(w, CBPAdam, kernels=False)), ((FUSED, None),)),
    (SGD_GRAPH, lambda w: captured(w, plain(sgd)), ((SGD, None),)),
    ("SGD + GnT, captured", lambda w: captured(w, with_engine(w, sgd)), ((SGD_GRAPH, None),)),
    ("SGD + GnT, captured, none due", lambda w: captured(w, with_engine(w, sgd, due=False)), ((SGD_GRAPH, None),)),
    (
        FUSED_GRAPH,
        lambda w: captured(w, plain(partial(adam, fused=True, capturable=True))),
        ((FUSED, None),),
    ),
    ("CBPAdam, captured", lambda w: captured(w, cbp(w, CBPAdam, capturable=True)), ((FUSED_GRAPH, None),)),
    (
        "CBPAdam, captured, none due",
        lambda w: captured(w, cbp(w, CBPAdam, due=False, capturable=True)),
        ((FUSED_GRAPH, None),),
    ),
)
