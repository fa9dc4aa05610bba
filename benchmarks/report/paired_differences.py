"""Differences between methods that were run with the same seeds, and methods that no other one beats."""

from __future__ import annotations

from collections.abc import Sequence

from .. import experiments
from ..comparison_table import interval_text
from ..display import Display, Metric
from ..method_styles import LABELS
from ..settings import settings_text
from ..summary import MethodResults, best_results, estimate
from .markdown import join_names, table
from .problems import Problem
from .result_tables import at_end, tuning


def paired_differences(problem: Problem) -> list[str]:
    """A table of the pairs that the experiment's display names, and a sentence about the methods that none beats."""
    display = experiments.display(problem.experiment)
    metrics = [metric for metric in (display.main, *display.others) if metric.name in display.compared]
    rows = []
    for method, reference in display.pairs:
        for result in problem.results:
            other = _nearest(result, reference, problem.results, display)
            if result.method == method and other is not None:
                rows += _row(result, other, metrics, display, problem)
    if not rows:
        return []
    headings = ["difference", "seeds", *(f"{metric.name.replace('_', ' ')}, last" for metric in metrics)]
    text = (
        f"Differences between runs with the same seed, last {display.last:.0%}: mean and 95% interval; in brackets for "
        "how many seeds the first method is higher. Not corrected for the number of comparisons."
    )
    return ["", text, "", *table(headings, rows), *_unbeaten(problem.results, display)]


def _nearest(
    result: MethodResults, reference: str, results: Sequence[MethodResults], display: Display
) -> MethodResults | None:
    """The reference with the most settings of the result; of several such, the one with the best mean."""
    own, best = tuning(result), best_results(results, display).get(reference)
    candidates = [each for each in results if each.method == reference and each.complete_seeds]

    def rank(other: MethodResults) -> tuple[int, bool]:
        return sum(own.get(name) == value for name, value in tuning(other).items()), other is best

    return max(candidates, key=rank, default=None)


def _row(
    result: MethodResults, other: MethodResults, metrics: Sequence[Metric], display: Display, problem: Problem
) -> list[list[str]]:
    cells, count = [], 0
    for metric in metrics:
        own, its = (each.mean_by_seed(metric.name, 1.0 - display.last, 1.0) for each in (result, other))
        seeds = sorted(own.keys() & its.keys())
        if len(seeds) < 2:
            return []
        values = [own[seed] - its[seed] for seed in seeds]
        count = len(seeds)
        interval = interval_text(estimate(values), metric)
        sign = "+" if not interval.startswith("-") else ""
        cells.append(f"{sign}{interval} ({sum(value > 0 for value in values)} of {count})")
    name = _name(result, problem.results)
    return [[f"{name} - {_name(other, problem.results)}", str(count), *cells]]


def _name(result: MethodResults, results: Sequence[MethodResults]) -> str:
    """The method, with the settings in which results of this method differ."""
    others = [tuning(other) for other in results if other.method == result.method]
    own = {k: v for k, v in tuning(result).items() if any(other.get(k) != v for other in others)}
    return LABELS[result.method] + (f" ({settings_text(own)})" if own else "")


def _unbeaten(results: Sequence[MethodResults], display: Display) -> list[str]:
    """Which results no other one beats in all of the display's ``axes``, by their means."""
    if not display.axes:
        return []
    known = {metric.name: metric for metric in (display.main, *display.others)}
    complete = [result for result in results if result.complete_seeds and all(map(result.has, display.axes))]
    points = [tuple(at_end(result, display, known[name]).mean for name in display.axes) for result in complete]
    best = [
        _name(result, results)
        for result, point in zip(complete, points, strict=True)
        if not any(other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in points)
    ]
    if not best:  # no seed is complete
        return []
    axes = join_names([known[name].title[0].lower() + known[name].title[1:] for name in display.axes])
    return ["", f"By the means of {axes}, last {display.last:.0%}, no other row beats: {join_names(best)}."]
