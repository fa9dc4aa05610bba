"""The tables of figures: a row for each method and tuning, and beside it what was published."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import experiments
from benchmarks.display import Display, Figure
from benchmarks.palette import LABELS
from benchmarks.published import TAGS, Entry, entries, nearest_to
from benchmarks.report.markdown import table
from benchmarks.report.problems import Family, Problem, shared
from benchmarks.settings import Values, in_words
from benchmarks.summary import Estimate, Line, best, first_and_last
from benchmarks.tables import text

OF_NO_INTEREST = ("", "no")  # values that say only that something is not used


class Sources:
    """The published sources that a section refers to, numbered as they come."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str, str], int] = {}

    def refer(self, entry: Entry) -> str:
        """The number of its source, in brackets."""
        key = (entry.source, TAGS[entry.tag], entry.note)
        return f"[{self._numbers.setdefault(key, len(self._numbers) + 1)}]"

    def lines(self) -> list[str]:
        """All of them, in order."""
        return [
            f"[{number}] {source}" + (f": {tag}" if tag not in source else "") + (f" ({note})" if note else "") + "."
            for (source, tag, note), number in self._numbers.items()
        ]


def tuning(line: Line) -> Values:
    """What tells a line from others of its problem: the settings that are its method's own."""
    common = shared(type(line.settings))
    own = line.settings.concerning(line.method)
    return {name: value for name, value in own.items() if name not in common and value not in OF_NO_INTEREST}


def in_common(lines: Sequence[Line]) -> Values:
    """The tuning that all of several lines have."""
    every = [tuning(line) for line in lines]
    return {k: v for k, v in every[0].items() if len(every) > 1 and all(each.get(k) == v for each in every)}


def figures(problem: Problem, sources: Sources) -> list[str]:
    """The table of a problem; of each method the best mean is bold where several tunings were tried."""
    display = experiments.display(problem.experiment)
    others = [figure for figure in display.others if any(line.has(figure.name) for line in problem.lines)]
    ends = [f"{figure.name.replace('_', ' ')}, last" for figure in others]
    headings = ["method", "its settings", "seeds", *columns(display), *ends, "published"]
    common = in_common(problem.lines)
    chosen = best(problem.lines, display)
    rows = []
    for line in problem.lines:
        own = {name: value for name, value in tuning(line).items() if name not in common}
        several = sum(other.method == line.method for other in problem.lines) > 1
        main = main_cells(line, display, bold=several and chosen.get(line.method) is line)
        further = [_end(line, display, figure) for figure in others]
        beside = published(line, display, sources)
        rows.append([LABELS[line.method], in_words(own), seeds(line), *main, *further, beside])
    said = [f"All with {in_words(common)}.", ""] if common else []
    return [*said, *table(headings, rows, words=(0, 1, len(headings) - 1))]


def columns(display: Display) -> list[str]:
    """Headings of `main_cells`."""
    return [f"first {display.first:.0%}", f"last {display.last:.0%}", "mean"]


def main_cells(line: Line, display: Display, *, bold: bool = False) -> list[str]:
    """The main figure: first part, last part and mean."""
    if not line.complete:
        return ["", "", ""]
    first, last = first_and_last(line, display)
    mean = text(line.mean(display.main.name), display.main)
    return [text(first, display.main), text(last, display.main), f"**{mean}**" if bold else mean]


def _end(line: Line, display: Display, figure: Figure) -> str:
    return text(at_end(line, display, figure), figure) if line.has(figure.name) else ""


def at_end(line: Line, display: Display, figure: Figure) -> Estimate:
    """A figure in the last part of the run."""
    return line.mean(figure.name, 1.0 - display.last, 1.0)


def seeds(line: Line) -> str:
    """How many there are, and how many of them diverged."""
    return f"{len(line.complete)}" + (f" ({len(line.diverged)} diverged)" if line.diverged else "")


def published(line: Line, display: Display, sources: Sources) -> str:
    """What was published for the nearest settings, and what is not as here."""
    known = {figure.name: figure for figure in (display.main, *display.others)}
    found = nearest_to(of_experiment(line.runs[0].experiment), line.settings, line.method)
    texts = []
    for entry, differing in found:
        what = "" if entry.figure == display.main.name else f"{known[entry.figure].title}: "
        with_ = f", with {in_words(differing)}" if differing else ""
        texts.append(f"{what}{entry.text(known[entry.figure])} {sources.refer(entry)}{with_}")
    return "; ".join(texts)


def of_experiment(experiment: str) -> list[Entry]:
    """Its published figures."""
    return [entry for entry in entries() if entry.experiment == experiment]


def family_figures(family: Family, sources: Sources) -> list[str]:
    """The table of a family: a row for each problem and shared tuning, a column for each method."""
    display = experiments.display(family.experiment)
    by, names = family.by, varying(family.lines)
    methods = list(dict.fromkeys(line.method for line in family.lines))
    headings = [by.replace("_", " "), *(name.replace("_", " ") for name in names), "seeds", *map(LABELS.get, methods)]
    rows = []
    for problem in family.problems:
        for values in dict.fromkeys(_values(line, names) for line in problem.lines):
            here = [line for line in problem.lines if _values(line, names) == values]
            top = _best_end(here, display)
            cells = [
                "<br>".join(_from_to(each, here, display, bold=each is top) for each in here if each.method == method)
                for method in methods
            ]
            counts = "; ".join(dict.fromkeys(map(seeds, here)))
            beside = [f"{LABELS[each.method]}: {p}" for each in here if (p := published(each, display, sources))]
            row = [problem.values[by], *map(str, values), counts, *cells, "<br>".join(dict.fromkeys(beside))]
            rows.append([str(cell) for cell in row])
    said = [f"In the cells: {' → '.join(columns(display)[:2])}. {_constant(family, methods, names)}".rstrip(), ""]
    return [*said, *table([*map(str, headings), "published"], rows, words=(0, len(headings)))]


def _constant(family: Family, methods: Sequence[str], names: Sequence[str]) -> str:
    """The tuning that does not vary over a method's lines."""
    said = []
    for method in methods:
        every = [tuning(line) for line in family.lines if line.method == method]
        own = {k: v for k, v in every[0].items() if k not in names and all(each.get(k) == v for each in every)}
        said += [f"{LABELS[method]} with {in_words(own)}"] if own else []
    return "; ".join(said) + "." if said else ""


def varying(lines: Sequence[Line]) -> list[str]:
    """Names of the tuning that every method has, and of which several values were tried."""
    every = [tuning(line) for line in lines]
    names = [name for name in every[0] if all(name in each for each in every)]
    return [name for name in names if len({each[name] for each in every}) > 1]


def _values(line: Line, names: Sequence[str]) -> tuple[object, ...]:
    return tuple(tuning(line)[name] for name in names)


def _best_end(lines: Sequence[Line], display: Display) -> Line | None:
    """Of several the one that ends best."""
    complete = [line for line in lines if line.complete]
    sign = 1.0 if display.higher_is_better else -1.0
    ends = [sign * first_and_last(line, display)[1].mean for line in complete]
    return complete[ends.index(max(ends))] if len(complete) > 1 else None


def _from_to(line: Line, here: Sequence[Line], display: Display, *, bold: bool) -> str:
    """From the first part to the last; with its settings where the method has several lines."""
    if not line.complete:
        return "diverged"
    first, last = first_and_last(line, display)
    others = [tuning(other) for other in here if other.method == line.method]
    own = {k: v for k, v in tuning(line).items() if any(other.get(k) != v for other in others)}
    label = f"{in_words(own)}: " if own else ""
    end = text(last, display.main)
    return f"{label}{display.main.text(first.mean)} → {f'**{end}**' if bold else end}"
