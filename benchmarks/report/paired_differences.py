"""Differences between methods that were run with the same seeds, and methods that no other one beats."""

from __future__ import annotations

from collections.abc import Sequence

from .. import experiments
from ..display import Display, Metric
from ..method_names import MAIN_METHODS
from ..method_styles import LABELS
from ..settings import settings_text
from ..summary import MethodResults, best_results
from .markdown import collapsible, join_names, table
from .paired_tests import LEVEL, LOSES, TIES, WINS, Difference, Tested, against_others, difference, holm, signed_text
from .problems import Family, Problem
from .result_tables import at_end, tuning
from .section_summary import MethodSummary

_BACKPROP, _CBP = MAIN_METHODS
_TITLE = "Differences between methods over the same seeds: paired t-tests"
_SENTENCES = {WINS: "better than", TIES: "no difference shown from", LOSES: "worse than"}


def paired_differences(part: Problem | Family, rows: Sequence[MethodSummary] = ()) -> list[str]:
    """What continual backprop is better and worse than; then, collapsible, a table of its differences from all other
    methods, and one of the pairs that the experiment's display names.

    Args:
        part: the runs of a problem, or of a family's problems.
        rows: of a problem, the methods whose runs are not there; only continual backprop's differences include them.
    """
    display = experiments.display(part.experiment)
    problems = part.problems if isinstance(part, Family) else (part,)
    tests = [_continual_backprop(problem, display, rows) for problem in problems]
    tables = _against_others(part, tests, display)
    if isinstance(part, Problem):
        tables += _pairs(part, display)
    if not tables:
        return []
    lines = _sentence(tests[0], display) if isinstance(part, Problem) else []
    lines += _unbeaten(part.results, display) if isinstance(part, Problem) else []
    return [*lines, "", *collapsible(_TITLE, tables[1:])]


def _continual_backprop(problem: Problem, display: Display, rows: Sequence[MethodSummary]) -> dict[str, Tested]:
    """Continual backprop against each other method, each with the best of its settings."""
    chosen = best_results(problem.results, display)
    part = (display.main.name, 1.0 - display.last, 1.0)
    last = {name: each.mean_by_seed(*part) for name, each in chosen.items() if name not in display.references}
    last |= {each.method: each.by_seed for each in rows if each.method not in display.references}
    return against_others(_CBP, last, planned=_BACKPROP)


def _sentence(tests: dict[str, Tested], display: Display) -> list[str]:
    verdicts = {name: tested.verdict(higher_is_better=display.higher_is_better) for name, tested in tests.items()}
    texts = [
        f"{words} {join_names(names, 'or' if verdict == TIES else 'and')}"
        for verdict, words in _SENTENCES.items()
        if (names := [LABELS[name] for name, own in verdicts.items() if own == verdict])
    ]
    others = len(tests.keys() - {_BACKPROP})
    end = f", corrected for {others} comparisons (without backprop)" if others > 1 else ""
    start = f"Continual backprop, last {display.last:.0%}, by paired t-tests over the same seeds{end}"
    return ["", f"{start}: {'; '.join(texts)}."] if texts else []


def _against_others(part: Problem | Family, tests: Sequence[dict[str, Tested]], display: Display) -> list[str]:
    """A row for each method, and for each problem of a family."""
    rows = []
    for number, own in enumerate(tests):
        value = f"{part.problems[number].values[part.by]}: " if isinstance(part, Family) else ""
        for name, tested in own.items():
            verdict = tested.verdict(higher_is_better=display.higher_is_better)
            change = signed_text(tested.difference.estimate, display.main)
            count = len(tested.difference.values)
            ps = (f"{each:.2g}" for each in (tested.difference.p, tested.p))
            rows.append([f"{value}{LABELS[name]}", str(count), change, tested.difference.higher, *ps, verdict])
    if not rows:
        return []
    title = display.main.title[0].lower() + display.main.title[1:]
    same = f" with the same {part.by.replace('_', ' ')}" if isinstance(part, Family) else ""
    text = (
        f"Continual backprop minus each other method, each with the best of its settings: {title}, last "
        f"{display.last:.0%}; mean and 95% interval over seeds; for how many of them continual backprop is higher; the "
        f"p-value of the paired t-test, alone and corrected (Holm) for the number of methods{same}, without backprop, "
        f"whose comparison was planned; the verdict at {LEVEL:.0%}."
    )
    headings = ["continual backprop minus", "seeds", "difference", "higher", "p", "p, corrected", "verdict"]
    return ["", text, "", *table(headings, rows, words=(0, len(headings) - 1))]


def _pairs(problem: Problem, display: Display) -> list[str]:
    """A row for each pair that the display names, and each setting of its first method."""
    metrics = [metric for metric in (display.main, *display.others) if metric.name in display.compared]
    names, found = [], []
    for method, reference in display.pairs:
        for result in problem.results:
            other = _nearest(result, reference, problem.results, display)
            if result.method != method or other is None:
                continue
            own = [_difference(result, other, metric, display) for metric in metrics]
            kept = [each for each in own if each is not None]
            if len(kept) == len(metrics):
                names.append(f"{_name(result, problem.results)} - {_name(other, problem.results)}")
                found.append(kept)
    if not found:
        return []
    corrected = [holm([each.p for each in column]) for column in zip(*found, strict=True)]
    rows = [
        [
            name,
            str(len(own[0].values)),
            *(_cell(each, ps[i], metric) for each, ps, metric in zip(own, corrected, metrics, strict=True)),
        ]
        for i, (name, own) in enumerate(zip(names, found, strict=True))
    ]
    headings = ["difference", "seeds", *(f"{metric.name.replace('_', ' ')}, last" for metric in metrics)]
    text = (
        f"Differences between pairs of methods, last {display.last:.0%}: mean and 95% interval over seeds; in brackets "
        "for how many seeds the first method is higher. Bold: the p-value of the paired t-test, corrected (Holm) for "
        f"the rows of the column, is below {LEVEL:.0%}."
    )
    return ["", text, "", *table(headings, rows)]


def _difference(result: MethodResults, other: MethodResults, metric: Metric, display: Display) -> Difference | None:
    part = (metric.name, 1.0 - display.last, 1.0)
    return difference(result.mean_by_seed(*part), other.mean_by_seed(*part))


def _nearest(
    result: MethodResults, reference: str, results: Sequence[MethodResults], display: Display
) -> MethodResults | None:
    """The reference with the most settings of the result; of several such, the one with the best mean."""
    own, best = tuning(result), best_results(results, display).get(reference)
    candidates = [each for each in results if each.method == reference and each.complete_seeds]

    def rank(other: MethodResults) -> tuple[int, bool]:
        return sum(own.get(name) == value for name, value in tuning(other).items()), other is best

    return max(candidates, key=rank, default=None)


def _cell(own: Difference, p: float, metric: Metric) -> str:
    text = signed_text(own.estimate, metric)
    return f"{f'**{text}**' if p < LEVEL else text} ({own.higher})"


def _name(result: MethodResults, results: Sequence[MethodResults]) -> str:
    """The method, with the settings in which results of this method differ."""
    others = [tuning(other) for other in results if other.method == result.method]
    own = result.settings.distinguishing(tuning(result), others)
    return LABELS[result.method] + (f" ({settings_text(own)})" if own else "")


def _unbeaten(results: Sequence[MethodResults], display: Display) -> list[str]:
    """Of which results no other one is better on all of the display's ``axes``, by their means."""
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
    unbeaten = f"no other row is better on every axis than: {join_names(best)}"
    return ["", f"By the means of {axes}, last {display.last:.0%}, {unbeaten}."]
