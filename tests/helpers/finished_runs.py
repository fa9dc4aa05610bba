"""Finished runs for tests of what reads them: real ones, of some thousand steps, and hand-made records."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks import experiments
from benchmarks.run import Run
from benchmarks.run_plan import RunPlan

REGRESSION = "slowly_changing_regression"
TINY = {"steps": 2000, "bin": 200, "flip_every": 500}


def make(run: Run) -> Run:
    """Train it to the end, as a worker does."""
    training = run.make_training()
    run.record.begin(run.head)
    while training.done < training.total:
        run.record.add(training.advance())
    run.finish(1.5)
    return run


def planned(
    out: Path, experiment: str, methods: str, seeds: int = 2, first: int = 0, grid: Any = None, **given: Any
) -> list[Run]:
    """The runs of a command."""
    size = given.pop("size", None)
    plan = RunPlan(experiment, tuple(methods.split()), size, given, grid or {}, tuple(range(first, first + seeds)))
    return plan.runs(out)


def regression(out: Path, methods: str = "backprop continual_backprop", **options: Any) -> list[Run]:
    """Real runs of the regression, of 2,000 steps."""
    return [make(run) for run in planned(out, REGRESSION, methods, **{**TINY, **options})]


def written(run: Run, rows: int = 10, keep: float = 0.9, seconds: float = 60.0) -> Run:
    """A record with made-up figures: they fall to ``keep`` of their start, a twentieth more with each seed."""
    display = experiments.display(run.experiment)
    run.delete_results()
    run.record.begin(run.head)
    for number in range(1, rows + 1):
        value = 0.5 * (keep + (1 - keep) * math.exp(1 - number))
        run.record.add(
            {
                "seed": seed,
                display.x: number,
                display.main.name: value * (1 + seed / 20),
                "dead_units/1": 0.1 * seed,
                "dead_units/2": 0.1,
                "nature_rank/1": 40.0 + seed,
            }
            for seed in run.seeds
        )
    run.finish(seconds)
    return run
