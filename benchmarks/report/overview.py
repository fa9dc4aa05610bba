"""The table of all experiments, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .. import experiments
from ..comparison_table import interval_text
from ..method_names import MAIN_METHODS
from ..method_styles import LABELS
from ..published import nearest_to
from ..settings import settings_text
from ..summary import MethodResults, best_results
from .markdown import join_names, table
from .problems import Problem
from .rerun_commands import default_command
from .result_tables import at_end, of_experiment

FIRST_HEADINGS: Final = ("experiment", "metric, last")


def overview(found: dict[str, list[Problem]], earlier: dict[str, dict[str, str]]) -> list[str]:
    """A row for each experiment: the last values on the problem that is nearest to the published one.

    Args:
        found: the problems of each experiment.
        earlier: the rows of other experiments on an existing page, as cells by heading.
    """
    headings = [*FIRST_HEADINGS, "size", "backprop", "best other", "continual backprop", "published"]
    rows = {name: _row(name, representative(own)) for name, own in found.items()}
    rows |= {name: [cells.get(heading, "") for heading in headings] for name, cells in earlier.items()}
    return table(headings, [rows[name] for name in experiments.NAMES if name in rows], words=(0, 1, 2, 6))


def representative(problems: Sequence[Problem]) -> Problem:
    """The first problem with both backprop and continual backprop; otherwise the first."""
    return next((problem for problem in problems if set(MAIN_METHODS) <= set(problem.methods)), problems[0])


def _row(experiment: str, problem: Problem) -> list[str]:
    display = experiments.display(experiment)
    chosen = best_results(problem.results, display)
    ends = {method: at_end(line, display, display.main) for method, line in chosen.items()}

    def cell(method: str) -> str:
        own = chosen[method].label.partition(", ")[2]  # settings, if several were tried
        texts = ", ".join(filter(None, ["" if method in MAIN_METHODS else LABELS[method], own]))
        return interval_text(ends[method], display.main) + (f" ({texts})" if texts else "")

    sign = 1.0 if display.higher_is_better else -1.0
    others = [method for method in ends if method not in MAIN_METHODS]
    other = max(others, key=lambda method: sign * ends[method].mean, default=None)
    return [
        f"[{experiment}](#{experiment})",
        display.main.title,
        problem.title.removeprefix("Size "),
        cell("backprop") if "backprop" in ends else "",
        cell(other) if other else "",
        cell("continual_backprop") if "continual_backprop" in ends else "",
        "; ".join(
            _published(chosen[method]) for method in MAIN_METHODS if method in chosen and _published(chosen[method])
        ),
    ]


def _published(line: MethodResults) -> str:
    """The published main metric with the nearest settings, as short text."""
    display = experiments.display(line.runs[0].experiment)
    found = nearest_to(of_experiment(line.runs[0].experiment), line.settings, line.method)
    main = [(entry, differing) for entry, differing in found if entry.figure == display.main.name]
    if not main:
        return ""
    entry, differing = main[0]
    return f"{LABELS[line.method]} {entry.text(display.main)}" + (" (other settings)" if differing else "")


def missing(found: dict[str, list[Problem]], earlier: dict[str, str]) -> list[str]:
    """What was run of each experiment, and what was not. ``earlier``: the lines of others on an existing page."""
    lines = []
    for name in experiments.NAMES:
        if name in found:
            lines.append(f"- **{name}**: {_run(found[name])}. {_not_run(name, found[name])}")
        elif name in earlier:
            lines.append(earlier[name])
        else:
            lines.append(f"- **{name}**: nothing finished. To run it: `{default_command(name)}`.")
    return [line.rstrip() for line in lines]


def _run(problems: Sequence[Problem]) -> str:
    texts = []
    for title in dict.fromkeys(_size_text(problem) for problem in problems):
        own = [problem for problem in problems if _size_text(problem) == title]
        methods = {method for problem in own for method in problem.methods}
        counts = [len(line.complete_seeds) for problem in own for line in problem.results]
        seeds = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        many = f"{len(own)} problems, " if len(own) > 1 else ""
        plural = "s" if len(methods) > 1 else ""
        texts.append(f"{title} ({many}{len(methods)} method{plural}, {seeds} seed{'' if seeds == '1' else 's'} each)")
    return "; ".join(texts)


def _size_text(problem: Problem) -> str:
    """The problem's size, and whether it differs from that size."""
    size, differing = problem.size
    numbers = {name: value for name, value in differing.items() if not isinstance(value, str)}
    if not differing:
        return f"size {size}"
    return f"size {size}, but {settings_text(numbers)}" if numbers else f"size {size} with other settings"


def _not_run(experiment: str, problems: Sequence[Problem]) -> str:
    cls = experiments.settings_class(experiment)
    done = {problem.size[0] for problem in problems if not problem.size[1]}
    sizes = [size for size in cls.size_names() if size not in done]
    methods = [LABELS[name] for name in cls.methods if not any(name in problem.methods for problem in problems)]
    texts = []
    if sizes:
        texts.append(
            f"size{'s' if len(sizes) > 1 else ''} {join_names(sizes)} as {'they are' if len(sizes) > 1 else 'it is'}"
        )
    if methods:
        texts.append(join_names(methods))
    return f"Not run: {'; '.join(texts)}." if texts else ""
