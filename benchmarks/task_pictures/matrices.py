"""The accuracies on all tasks after each task, from the rows of a run, and what the pictures show of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..display import Display
from ..summary import Estimate, MethodResults, best_results, estimate
from ..training import Row

Matrix = list[list[float]]


def accuracy_matrix(rows: list[Row]) -> Matrix:
    """R[i][j], the accuracy on task j after task i, NaN for later tasks; ``rows`` are those of one seed.

    >>> accuracy_matrix([{"accuracy_on/1": 0.9}, {"accuracy_on/1": 0.5, "accuracy_on/2": 0.75}])
    [[0.9, nan], [0.5, 0.75]]
    """
    tasks = range(1, len(rows) + 1)
    return [[row.get(f"accuracy_on/{task}", math.nan) for task in tasks] for row in rows]


def mean_matrix(result: MethodResults) -> Matrix:
    """The mean over seeds."""
    every = [accuracy_matrix(result.rows_by_seed[seed]) for seed in result.complete_seeds]
    return [[math.fsum(values) / len(every) for values in zip(*rows, strict=True)] for rows in zip(*every, strict=True)]


@dataclass(frozen=True)
class Spread:
    """A value of each seed, and their mean with its interval."""

    values: list[float]
    mean: Estimate


def _spread(values: list[float]) -> Spread:
    return Spread(values, estimate(values))


def newest_task(result: MethodResults, last: float) -> Spread:
    """Accuracy on the task just learned: mean over the last share of the tasks (1: over all)."""
    found = []
    for seed in result.complete_seeds:
        matrix = accuracy_matrix(result.rows_by_seed[seed])
        count = max(1, round(last * len(matrix)))
        found.append(math.fsum(matrix[i][i] for i in range(len(matrix) - count, len(matrix))) / count)
    return _spread(found)


def old_tasks(result: MethodResults) -> Spread:
    """Accuracy after the last task: mean over all tasks before it."""
    found = []
    for seed in result.complete_seeds:
        *old, _ = accuracy_matrix(result.rows_by_seed[seed])[-1]
        found.append(math.fsum(old) / len(old))
    return _spread(found)


def best_of_each(results: list[MethodResults], display: Display) -> tuple[list[MethodResults], list[str]]:
    """The best settings of each method, and a sentence about it if that leaves some out."""
    complete = [result for result in results if result.complete_seeds]
    chosen = list(best_results(complete, display).values())
    return chosen, ["For each method the best of the settings tried."] if len(chosen) < len(complete) else []
