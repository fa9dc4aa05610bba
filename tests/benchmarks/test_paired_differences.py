"""Differences between methods over the same seeds, and the methods that none beats, on the report's page."""

from __future__ import annotations

from pathlib import Path

import pytest
import scipy.stats

from benchmarks.report.paired_differences import paired_differences
from benchmarks.report.problems import problems
from benchmarks.run import Run
from tests.helpers.finished_runs import planned_runs

VALUES = {  # of the newest task and of old ones, with seeds 0, 1 and 2
    "hat": ([0.30, 0.40, 0.50], [0.60, 0.60, 0.60]),
    "hat_cbp": ([0.32, 0.43, 0.49], [0.60, 0.61, 0.62]),
    "continual_backprop": ([0.90, 0.90, 0.90], [0.20, 0.30, 0.40]),
    "backprop": ([0.80, 0.80, 0.80], [0.25, 0.30, 0.35]),
}


def write(run: Run) -> Run:
    """A record of ten tasks, whose values hold in the last two."""
    (seed,) = run.seeds
    new, old = (values[seed] for values in VALUES[run.method])
    run.record.begin(run.head)
    late = {"new_task": new, "old_tasks": old, "accuracy": (new + old) / 2}
    early = dict.fromkeys(late, 0.9)
    run.record.add({"seed": seed, "task": task, **(late if task > 8 else early)} for task in range(1, 11))
    run.finish(1.0)
    return run


def found(out: Path, seeds: dict[str, int], **grid: list[float]) -> list[str]:
    runs = [
        write(run)
        for method, n in seeds.items()
        for run in planned_runs(out, "permuted_tasks", method, n, grid=grid, tasks=10)
    ]
    (problem,) = problems(runs)
    return paired_differences(problem)


def cells(lines: list[str], start: str) -> list[str]:
    (row,) = (line for line in lines if line.startswith(f"| {start}"))
    return [cell.strip() for cell in row.split("|")[2:-1]]


def unbeaten(lines: list[str]) -> list[str]:
    return [line for line in lines if "no other row is better on every axis than: " in line]


def test_differences_are_taken_seed_by_seed_over_the_last_part(tmp_path: Path) -> None:
    lines = found(tmp_path, dict.fromkeys(VALUES, 3))
    half = scipy.stats.sem([2.0, 3.0, -1.0]) * scipy.stats.t.ppf(0.975, 2)
    count, _, new, old = cells(lines, "HAT + CBP - HAT")
    assert (count, new) == ("3", f"+1.3% ± {half:.1f}% (2 of 3)")
    assert old.startswith("+1.0% ± 2.5% (2 of 3)")
    assert cells(lines, "continual backprop - backprop")[2] == "**+10.0% ± 0.0%** (3 of 3)"
    assert cells(lines, "continual backprop - backprop")[3].endswith("(1 of 3)")
    assert unbeaten(lines)[0].endswith("no other row is better on every axis than: continual backprop and HAT + CBP.")
    assert cells(lines, "HAT |")[0] == "3"  # continual backprop against each other method


def test_only_seeds_that_both_have_are_compared_and_two_of_them_at_least(tmp_path: Path) -> None:
    lines = found(tmp_path, {"hat": 3, "hat_cbp": 2, "continual_backprop": 1, "backprop": 3})
    assert cells(lines, "HAT + CBP - HAT")[0] == "2"
    assert not [line for line in lines if "continual backprop - backprop" in line]


@pytest.mark.parametrize("seeds", [{"hat": 3}, {"hat": 3, "backprop": 3}])
def test_without_pairs_nothing_is_said(tmp_path: Path, seeds: dict[str, int]) -> None:
    assert found(tmp_path, seeds) == []


def test_several_settings_are_compared_with_the_same_ones_of_the_reference(tmp_path: Path) -> None:
    lines = found(tmp_path, {"hat": 2, "hat_cbp": 2}, sparsity=[0.1, 0.5])
    for value in ("0.1", "0.5"):
        assert cells(lines, f"HAT + CBP (sparsity {value}) - HAT (sparsity {value})")
    assert len([line for line in lines if line.startswith("| HAT + CBP")]) == 2
