"""From rows to means over seeds, with 95% confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from . import experiments
from .display import Display
from .errors import START_OVER_HINT, CannotRun
from .method_styles import LABELS
from .plasticity import verdicts_text
from .record_rows import row_shapes
from .run import Run
from .settings import BaseSettings, Values, settings_text
from .training import Row


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half-width of its 95% confidence interval (Student's t); None for a single seed."""

    mean: float
    half: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and confidence interval of one value per seed: mean +- t(0.975, n - 1) s / sqrt(n).

    >>> one = estimate([1.0, 2.0, 3.0])
    >>> one.mean, round(one.half, 3)
    (2.0, 2.484)
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(mean, _t_quantile(n - 1) * deviation / math.sqrt(n))


@cache
def _t_quantile(degrees_of_freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, degrees_of_freedom))


@dataclass(frozen=True)
class MethodResults:
    """The results of one method with one choice of settings: a line in a picture, a row in a table. Its runs differ in
    their seeds.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def method(self) -> str:
        """The method."""
        return self.runs[0].method

    @property
    def settings(self) -> BaseSettings:
        """The settings."""
        return self.runs[0].settings

    @cached_property
    def run_by_seed(self) -> dict[int, Run]:
        """The run of each seed: the first if several have the seed (alone and in an ensemble), but rather one in which
        it was not stopped because another seed diverged.
        """
        found: dict[int, Run] = {}
        for stopped in (False, True):
            for run in self.runs:
                for seed in run.seeds:
                    if stopped or not run.diverged or seed in run.diverged_seeds:
                        found.setdefault(seed, run)
        return found

    @property
    def counted_runs(self) -> list[Run]:
        """The runs in `run_by_seed`."""
        return list(dict.fromkeys(self.run_by_seed.values()))

    @cached_property
    def rows_by_seed(self) -> dict[int, list[Row]]:
        """The rows of each seed, in order."""
        rows: dict[int, list[Row]] = {seed: [] for seed in self.run_by_seed}
        for run in self.runs:
            for row in run.rows():
                if self.run_by_seed[int(row["seed"])] is run:
                    rows[int(row["seed"])].append(row)
        self._check_same_rows(rows)
        return rows

    def _check_same_rows(self, rows: dict[int, list[Row]]) -> None:
        """Raise `CannotRun` if complete runs of these settings do not have the same rows: one of them was changed."""
        shapes = row_shapes(
            [row for own in rows.values() for row in own], list(rows), experiments.display(self.runs[0].experiment)
        )
        complete = [seed for seed in sorted(rows) if not self.run_by_seed[seed].diverged]
        for seed in complete[1:]:
            if shapes[seed] != shapes[complete[0]]:
                files = [self.run_by_seed[each].record.file for each in (seed, complete[0])]
                raise CannotRun(
                    f"{files[0]} and {files[1]} have the same settings, but seed {seed} does not have the same rows as "
                    f"seed {complete[0]}. {START_OVER_HINT}"
                )

    @property
    def seeds(self) -> list[int]:
        """All seeds, sorted."""
        return sorted(self.rows_by_seed)

    @cached_property
    def diverged_seeds(self) -> list[int]:
        """Seeds whose run ended early because they diverged."""
        return sorted(seed for seed, run in self.run_by_seed.items() if seed in run.diverged_seeds)

    @cached_property
    def stopped_seeds(self) -> list[int]:
        """Seeds whose run ended early because another seed of the ensemble diverged."""
        return sorted(seed for seed, run in self.run_by_seed.items() if run.diverged and seed not in run.diverged_seeds)

    @property
    def complete_seeds(self) -> list[int]:
        """Seeds with all rows. Only these are averaged."""
        return [seed for seed in self.seeds if seed not in self.diverged_seeds and seed not in self.stopped_seeds]

    @property
    def seeds_text(self) -> str:
        """The number of complete seeds, with those of diverged and of stopped ones if there are any."""
        diverged, stopped = len(self.diverged_seeds), len(self.stopped_seeds)
        more = [f"{diverged} diverged"] if diverged else []
        more += [f"{stopped} stopped with {'it' if diverged == 1 else 'them'}"] if stopped else []
        return f"{len(self.complete_seeds)} ({', '.join(more)})" if more else f"{len(self.complete_seeds)}"

    @property
    def core_seconds(self) -> float:
        """The mean core time of a seed."""
        seconds: float = sum(run.about()["seconds"] for run in self.counted_runs)
        return seconds / len(self.run_by_seed)

    @property
    def plasticity(self) -> str:
        """What the plasticity check said of the complete seeds, as short text; "" if none was checked."""
        found = [verdict for seed in self.complete_seeds if (verdict := self._verdict(seed))]
        return verdicts_text(found)

    def _verdict(self, seed: int) -> dict[str, Any] | None:
        return self.run_by_seed[seed].plasticity.get(str(seed))

    def has(self, metric: str) -> bool:
        """Whether the rows have the metric."""
        rows = self.rows_by_seed[self.complete_seeds[0]] if self.complete_seeds else []
        return any(_value(row, metric) is not None for row in rows)

    def curve(self, metric: str, x: str, smooth: int = 1) -> tuple[list[float], list[Estimate]]:
        """The metric at each x: mean over seeds, after a moving average over ``smooth`` rows of each seed."""
        found = [
            [row for row in self.rows_by_seed[seed] if _value(row, metric) is not None] for seed in self.complete_seeds
        ]
        every = [moving_average([_value(row, metric) or 0.0 for row in rows], smooth) for rows in found]
        return [row[x] for row in found[0]], [estimate(values) for values in zip(*every, strict=True)]

    def mean(self, metric: str, first: float = 0.0, last: float = 1.0) -> Estimate:
        """Mean over seeds of each seed's mean over the rows from fraction ``first`` to fraction ``last`` of the run."""
        return estimate(list(self.mean_by_seed(metric, first, last).values()))

    def mean_by_seed(self, metric: str, first: float = 0.0, last: float = 1.0) -> dict[int, float]:
        """Each complete seed's mean over these rows."""
        means = {}
        for seed in self.complete_seeds:
            found = [value for row in self.rows_by_seed[seed] if (value := _value(row, metric)) is not None]
            begin, end = _slice_bounds(len(found), first, last)
            means[seed] = math.fsum(found[begin:end]) / (end - begin)
        return means


def _slice_bounds(count: int, first: float, last: float) -> tuple[int, int]:
    """The rows from fraction ``first`` to fraction ``last``; at least one row.

    >>> _slice_bounds(10, 0.0, 0.1), _slice_bounds(10, 0.8, 1.0), _slice_bounds(3, 0.0, 0.1), _slice_bounds(3, 0.9, 1.0)
    ((0, 1), (8, 10), (0, 1), (2, 3))
    """
    begin, end = round(first * count), round(last * count)
    if end <= begin:
        begin, end = (0, 1) if first == 0.0 else (count - 1, count)
    return begin, end


def moving_average(values: list[float], width: int) -> list[float]:
    """Each value's mean with its neighbours, ``width`` values in all (fewer at the ends).

    >>> moving_average([1.0, 2.0, 6.0], 3)
    [1.5, 3.0, 4.0]
    """
    side = width // 2
    windows = (values[max(0, i - side) : i + side + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _value(row: Row, metric: str) -> float | None:
    """The metric in a row, or the mean over layers of "metric/layer"; None if the row has neither."""
    if metric in row:
        return row[metric]
    layers = [value for name, value in row.items() if name.startswith(f"{metric}/")]
    return sum(layers) / len(layers) if layers else None


def run_labels(runs: Sequence[Run]) -> dict[Run, str]:
    """A label for each run: the method, and the settings in which runs of this method differ."""
    seen: dict[str, list[Values]] = {}
    for run in runs:
        seen.setdefault(run.method, []).append(run.settings.affecting(run.method))
    found = {}
    for run in runs:
        differing = run.settings.distinguishing(run.settings.affecting(run.method), seen[run.method])
        found[run] = ", ".join(filter(None, [LABELS[run.method], settings_text(differing)]))
    return found


def results_of(runs: Sequence[Run]) -> list[MethodResults]:
    """Group finished runs by method and settings, in the order of their first runs."""
    grouped: dict[Any, list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.method, run.settings), []).append(run)
    labels = run_labels(runs)
    return [MethodResults(labels[group[0]], tuple(group)) for group in grouped.values()]


def first_and_last(result: MethodResults, display: Display) -> tuple[Estimate, Estimate]:
    """The main metric in the first and in the last part of the run."""
    name = display.main.name
    return result.mean(name, 0.0, display.first), result.mean(name, 1.0 - display.last, 1.0)


def best_results(results: Sequence[MethodResults], display: Display) -> dict[str, MethodResults]:
    """For each method that has a complete seed, the settings with the best main metric over the whole run.

    They are chosen among the settings with the most seeds, and of these among those with the fewest seeds that are not
    complete: a single seed, or the seeds that are left where others diverged, are not a fair sample.
    """
    sign = 1.0 if display.higher_is_better else -1.0
    found: dict[str, MethodResults] = {}
    ranks: dict[str, tuple[float, float, float]] = {}
    for result in results:
        if not result.complete_seeds:
            continue
        seeds, complete = len(result.seeds), len(result.complete_seeds)
        rank = seeds, complete - seeds, sign * result.mean(display.main.name).mean
        if result.method not in ranks or rank > ranks[result.method]:
            found[result.method], ranks[result.method] = result, rank
    return found
