"""The tables of results: a row for each method and tuning, with published values."""

from __future__ import annotations

from collections.abc import Sequence

from .. import experiments
from ..comparison_table import further_columns, interval_text
from ..display import Display, Metric
from ..method_styles import LABELS
from ..published import TAGS, Entry, entries, nearest_to
from ..settings import Values, settings_text
from ..summary import Estimate, MethodResults, best_results, first_and_last
from .markdown import table
from .problems import Family, Problem, shared

UNUSED_VALUES = ("", "no")  # values that mean that something is not used


class Sources:
    """The published sources that a section cites, numbered in order of citation."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str, str], int] = {}

    def refer(self, entry: Entry) -> str:
        """The citation of an entry's source, a number in brackets."""
        key = (entry.source, TAGS[entry.tag], entry.note)
        return f"[{self._numbers.setdefault(key, len(self._numbers) + 1)}]"

    def lines(self) -> list[str]:
        """All sources, in order."""
        return [
            f"[{number}] {source}" + (f": {tag}" if tag not in source else "") + (f" ({note})" if note else "") + "."
            for (source, tag, note), number in self._numbers.items()
        ]


def tuning(result: MethodResults) -> Values:
    """The settings that distinguish a result from others of its problem."""
    common = shared(type(result.settings))
    own = result.settings.affecting(result.method)
    return {name: value for name, value in own.items() if name not in common and value not in UNUSED_VALUES}


def in_common(results: Sequence[MethodResults]) -> Values:
    """The tuning that all results share."""
    every = [tuning(result) for result in results]
    return {k: v for k, v in every[0].items() if len(every) > 1 and all(each.get(k) == v for each in every)}


def alike_where_used(results: Sequence[MethodResults]) -> Values:
    """The tuning that several methods but not all have, with the same value in all results that have it."""
    every = [(result.method, tuning(result)) for result in results]
    found: Values = {}
    for name, value in {name: value for _, own in every for name, value in own.items()}.items():
        users = {method for method, own in every if name in own}
        if len(users) > 1 and all(own.get(name, value) == value for _, own in every):
            found[name] = value
    return {name: value for name, value in found.items() if name not in in_common(results)}


def problem_table(problem: Problem, sources: Sources) -> list[str]:
    """The table of a problem. If several tunings of a method were tried, its best mean is bold."""
    display = experiments.display(problem.experiment)
    others = [metric for metric in display.others if any(result.has(metric.name) for result in problem.results)]
    ends = [f"{metric.name.replace('_', ' ')}, last" for metric in others]
    more = further_columns([result for result in problem.results if result.complete_seeds], display)
    headings = ["method", "settings", "seeds", *columns(display), *ends, *more, "published"]
    common, alike = in_common(problem.results), alike_where_used(problem.results)
    chosen = best_results(problem.results, display)
    rows = []
    for result in problem.results:
        own = {name: value for name, value in tuning(result).items() if name not in common | alike}
        several = sum(other.method == result.method for other in problem.results) > 1
        main = main_cells(result, display, bold=several and chosen.get(result.method) is result)
        further = [_last_cell(result, display, metric) for metric in others]
        further += [cells.get(result.label, "") for cells in more.values()]
        beside = published(result, display, sources)
        rows.append([LABELS[result.method], settings_text(own), result.seeds_text, *main, *further, beside])
    texts = [f"All with {settings_text(common)}."] if common else []
    texts += [f"Where a method has them: {settings_text(alike)}."] if alike else []
    above = [" ".join(texts), ""] if texts else []
    return [*above, *table(headings, rows, words=(0, 1, len(headings) - 1))]


def columns(display: Display) -> list[str]:
    """Headings of `main_cells`."""
    return [f"first {display.first:.0%}", f"last {display.last:.0%}", "mean"]


def main_cells(result: MethodResults, display: Display, *, bold: bool = False) -> list[str]:
    """The main metric: first part, last part and mean."""
    if not result.complete_seeds:
        return ["", "", ""]
    first, last = first_and_last(result, display)
    mean = interval_text(result.mean(display.main.name), display.main)
    return [interval_text(first, display.main), interval_text(last, display.main), f"**{mean}**" if bold else mean]


def _last_cell(result: MethodResults, display: Display, metric: Metric) -> str:
    return interval_text(at_end(result, display, metric), metric) if result.has(metric.name) else ""


def at_end(result: MethodResults, display: Display, metric: Metric) -> Estimate:
    """A metric in the last part of the run."""
    return result.mean(metric.name, 1.0 - display.last, 1.0)


def published(result: MethodResults, display: Display, sources: Sources) -> str:
    """Published values for the nearest settings, and the settings that differ."""
    known = {metric.name: metric for metric in (display.main, *display.others)}
    found = nearest_to(of_experiment(result.runs[0].experiment), result.settings, result.method)
    texts = []
    for entry, differing in found:
        what = "" if entry.figure == display.main.name else f"{known[entry.figure].title}: "
        with_ = f", with {settings_text(differing)}" if differing else ""
        texts.append(f"{what}{entry.text(known[entry.figure])} {sources.refer(entry)}{with_}")
    return "; ".join(texts)


def of_experiment(experiment: str) -> list[Entry]:
    """The published values of an experiment."""
    return [entry for entry in entries() if entry.experiment == experiment]


def family_table(family: Family, sources: Sources) -> list[str]:
    """The table of a family: a row for each problem and shared tuning, a column for each method."""
    display = experiments.display(family.experiment)
    by, names = family.by, varying(family.results)
    methods = list(dict.fromkeys(result.method for result in family.results))
    headings = [by.replace("_", " "), *(name.replace("_", " ") for name in names), "seeds", *map(LABELS.get, methods)]
    rows = []
    for problem in family.problems:
        for values in dict.fromkeys(_values(result, names) for result in problem.results):
            here = [result for result in problem.results if _values(result, names) == values]
            top = _best_end(here, display)
            cells = [
                "<br>".join(_from_to(each, here, display, bold=each is top) for each in here if each.method == method)
                for method in methods
            ]
            counts = "; ".join(dict.fromkeys(each.seeds_text for each in here))
            beside = [f"{LABELS[each.method]}: {p}" for each in here if (p := published(each, display, sources))]
            row = [problem.values[by], *map(str, values), counts, *cells, "<br>".join(dict.fromkeys(beside))]
            rows.append([str(cell) for cell in row])
    texts = [f"In the cells: {' → '.join(columns(display)[:2])}. {_constant(family, methods, names)}".rstrip(), ""]
    return [*texts, *table([*map(str, headings), "published"], rows, words=(0, len(headings)))]


def _constant(family: Family, methods: Sequence[str], names: Sequence[str]) -> str:
    """The tuning that all of a method's results share."""
    texts = []
    for method in methods:
        every = [tuning(result) for result in family.results if result.method == method]
        own = {k: v for k, v in every[0].items() if k not in names and all(each.get(k) == v for each in every)}
        texts += [f"{LABELS[method]} with {settings_text(own)}"] if own else []
    return "; ".join(texts) + "." if texts else ""


def varying(results: Sequence[MethodResults]) -> list[str]:
    """The tuning that every method has and that was varied."""
    every = [tuning(result) for result in results]
    names = [name for name in every[0] if all(name in each for each in every)]
    return [name for name in names if len({each[name] for each in every}) > 1]


def _values(result: MethodResults, names: Sequence[str]) -> tuple[object, ...]:
    return tuple(tuning(result)[name] for name in names)


def _best_end(results: Sequence[MethodResults], display: Display) -> MethodResults | None:
    """The result with the best last value."""
    complete = [result for result in results if result.complete_seeds]
    sign = 1.0 if display.higher_is_better else -1.0
    ends = [sign * first_and_last(result, display)[1].mean for result in complete]
    return complete[ends.index(max(ends))] if len(complete) > 1 else None


def _from_to(result: MethodResults, here: Sequence[MethodResults], display: Display, *, bold: bool) -> str:
    """First and last value, with the settings if the method has several results."""
    if not result.complete_seeds:
        return "diverged"
    first, last = first_and_last(result, display)
    others = [tuning(other) for other in here if other.method == result.method]
    own = result.settings.distinguishing(tuning(result), others)
    label = f"{settings_text(own)}: " if own else ""
    end = interval_text(last, display.main)
    return f"{label}{display.main.text(first.mean)} → {f'**{end}**' if bold else end}"
