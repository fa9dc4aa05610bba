"""Measures the selected workloads one after another, and adds each to the record."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from ..progress import ProgressView, Title
from .machine_load import LoadMonitor
from .selection import WorkloadPlan
from .step_runners import StepRunner
from .timing import Rounds, Timings, measure, quartiles, warm_up

NAME = Title("speed", "#0072B2")  # of the progress bar
PARTS = 100  # of the progress bar per workload; building and warm-up are the first 20


def measure_all(
    plans: list[WorkloadPlan],
    rounds: Rounds,
    monitor: LoadMonitor,
    view: ProgressView,
    record: Callable[[dict[str, Any]], None],
) -> None:
    """Measure all workloads. ``record`` is called with the results of each."""
    total = PARTS * len(plans)
    for i, plan in enumerate(plans):

        def show(part: float, what: str, i: int = i, name: str = plan.workload.name) -> None:
            view.progress(NAME, int(PARTS * (i + part)), total, f"{name}: {what}")

        found = measure_one(plan, rounds, monitor, show)
        record(found)
        view.line(NAME, _in_words(found))
        gc.collect()  # the networks of one workload go before those of the next come


def measure_one(
    plan: WorkloadPlan, rounds: Rounds, monitor: LoadMonitor, show: Callable[[float, str], None]
) -> dict[str, Any]:
    """One workload's part of the record."""
    runners: dict[str, StepRunner] = {}
    left_out = dict(plan.left_out)
    # all are built before any warm-up: constructing an engine invalidates compiled code
    for stage in ("build", "warm up"):
        for i, one in enumerate(plan.variants):
            show(0.1 * (1 + i / len(plan.variants)) if stage == "warm up" else 0.0, f"{stage} {one.name}")
            try:
                if stage == "build":
                    runners[one.name] = one.build(plan.workload)
                elif one.name in runners:
                    warm_up(runners[one.name], plan.workload)
            except Exception as error:  # one failing variant does not stop the others
                runners.pop(one.name, None)
                left_out[one.name] = f"failed: {type(error).__name__}: {error}".splitlines()[0]
    ratios = [one for one in plan.ratios if {one.variant, one.against} <= runners.keys()]
    needed = {name for ratio in ratios for name in (ratio.variant, ratio.against)}
    runners = {name: runner for name, runner in runners.items() if name in needed}
    timed = Timings(0, {}, {})
    if runners:
        timed = measure(
            runners, plan.workload, rounds, monitor, lambda i, n: show(0.2 + 0.8 * i / n, f"round {i} of {n}")
        )
    return {
        **_about(plan, runners),
        "steps_a_block": timed.steps,
        "rounds": max(map(len, timed.times.values()), default=0),
        "entrants": {name: _variant(name, timed, runners[name]) for name in runners},
        "figures": [
            {
                "entrant": one.variant,
                "against": one.against,
                **timed.ratio(one.variant, one.against),
                "target": one.target,
            }
            for one in ratios
        ],
        "left_out": left_out,
    }


def _about(plan: WorkloadPlan, runners: dict[str, StepRunner]) -> dict[str, Any]:
    workload = plan.workload
    net = next(iter(runners.values())).nets[0] if runners else None
    return {
        "name": workload.name,
        "batch": workload.batch,
        "width": workload.width,
        "picture": workload.picture,
        "maturity_threshold": workload.maturity,
        "parameters": sum(param.numel() for param in net.parameters()) if net is not None else None,
    }


def _variant(name: str, timed: Timings, runner: StepRunner) -> dict[str, Any]:
    low, middle, high = quartiles(timed.times[name])
    return {
        "seconds": middle,
        "low": low,
        "high": high,
        "replaced": timed.replaced[name] if runner.engine is not None else None,
        "denormals": denormals(runner),
    }


def denormals(runner: StepRunner) -> float:
    """Fraction of denormal numbers, which are slow, among weights, gradients and optimizer state.

    >>> tiny = torch.tensor([1.0, 0.0, 1e-40, -1e-40])
    >>> denormals(StepRunner(print, [torch.nn.ParameterList([tiny])]))
    0.5
    """
    found = total = 0
    for tensor in runner.tensors():
        if tensor.is_floating_point():
            size = tensor.abs()
            found += int(((size > 0) & (size < torch.finfo(tensor.dtype).tiny)).sum())
            total += tensor.numel()
    return found / max(1, total)


def _in_words(found: dict[str, Any]) -> str:
    ratios = [f"{one['entrant']} {one['ratio']:.2f} x {one['against']}" for one in found["figures"]]
    return f"{found['name']}: {'; '.join(ratios) or 'nothing to compare'}"
