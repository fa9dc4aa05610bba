"""Finished runs for tests of code that reads results: trained for some hundred steps, or with made-up records."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks import experiments
from benchmarks.run import Run
from benchmarks.run_plan import RunPlan

REGRESSION = "slowly_changing_regression"
TINY = {"steps": 1000, "bin": 100, "flip_every": 250}


def train(run: Run) -> Run:
    """Train the run to its end, as a worker does."""
    training = run.make_training()
    run.record.begin(run.head)
    while training.done < training.total:
        run.record.add(training.advance())
    verdicts = training.plasticity()
    run.finish(1.5, **({"plasticity": verdicts} if verdicts else {}))
    return run


def planned_runs(
    out: Path, experiment: str, methods: str, seeds: int = 2, first: int = 0, grid: Any = None, **given: Any
) -> list[Run]:
    """The runs that a command would execute."""
    size = given.pop("size", None)
    plan = RunPlan(experiment, tuple(methods.split()), size, given, grid or {}, tuple(range(first, first + seeds)))
    return plan.runs(out)


def trained_regression_runs(out: Path, methods: str = "backprop continual_backprop", **options: Any) -> list[Run]:
    """Trained runs of the regression, 1,000 steps each."""
    return [train(run) for run in planned_runs(out, REGRESSION, methods, **{**TINY, **options})]


def write_record(run: Run, rows: int = 10, keep: float = 0.9, seconds: float = 60.0) -> Run:
    """Write a record with made-up values: they decline to ``keep`` times the first one, and rise by 5% with each
    seed.
    """
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
