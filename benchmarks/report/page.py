"""The whole page, in Markdown, and the pictures that it shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO

from benchmarks import experiments
from benchmarks.comparison_picture import write_picture
from benchmarks.report.family_picture import write_family_picture
from benchmarks.report.overview import missing, overview
from benchmarks.report.problems import Family, Problem, families, problems
from benchmarks.report.provenance import provenance_lines, repeated_seeds
from benchmarks.report.rerun_commands import default_command
from benchmarks.report.result_tables import Sources, family_table, of_experiment, problem_table
from benchmarks.report.run_finder import FoundRuns
from benchmarks.settings import settings_text
from benchmarks.summary import best_results

PICTURES = "results"  # the folder beside the page
CROWDED = 8  # lines in a picture; of more, each method's best are shown

_INTRODUCTION = """\
# Results

Networks that are trained on and on lose plasticity: units die, features collapse, and in the end they learn no better
than a linear model. These are the field's experiments on that, made with this library: backpropagation, continual
backpropagation, which replaces the least useful units step by step, and other remedies. Each figure is a mean over
seeds with its 95% interval (Student's t), stands beside what was published where something was, and below each table
are the commands that make it again."""

_RERUN = """\
`python -m benchmarks report` has written this page and its pictures from the records of finished runs; nothing in it
is written by hand. `python -m benchmarks EXPERIMENT --help` tells what can be set. "first", "last" and "mean" are of
that part of a run's rows. Published figures are those for the nearest settings, and "with" names the settings in
which these were not as here; their "start" and "end" are the first and the last that was published: points, where
ours are means. Where several settings of a method were tried, the overview takes those with the best mean over the
whole run."""


@dataclass(frozen=True)
class Picture:
    """A picture of the page: its file's name, and what draws it."""

    name: str
    draw: Callable[[IO[bytes]], None]


class Page:
    """The page of all that was found: ``text``, ``pictures``."""

    def __init__(self, found: FoundRuns) -> None:
        self.pictures: list[Picture] = []
        by_experiment = {
            name: problems(runs)
            for name in experiments.NAMES
            if (runs := [run for run in found.runs if run.experiment == name])
        }
        parts = [
            _INTRODUCTION.splitlines(),
            overview(by_experiment),
            _RERUN.splitlines(),
            ["## What was run, and what is missing", "", *missing(by_experiment), *_not_shown(found)],
            *(self._experiment(name, own) for name, own in by_experiment.items()),
        ]
        self.text = "\n\n".join("\n".join(lines) for lines in parts) + "\n"

    def _experiment(self, name: str, own: list[Problem]) -> list[str]:
        cls, sources = experiments.settings_class(name), Sources()
        lines = [f"## {name}", "", f"{cls.help[0].upper()}{cls.help[1:]}. To run it: `{default_command(name)}`."]
        parts = families(own)
        for part in parts:
            lines += ["", f"### {part.title}", "", *self._part(part, sources)]
        others = _others(name, sources)
        known = sources.lines()
        lines += ["", *others] if others else []
        lines += ["", "Published figures:", "", *(f"- {line}" for line in known)] if known else []
        lines += [] if known else ["", "Published figures for settings like these: none."]
        return lines

    def _part(self, part: Problem | Family, sources: Sources) -> list[str]:
        display = experiments.display(part.experiment)
        first = part.problems[0] if isinstance(part, Family) else part
        shown = [line for line in part.results if line.complete_seeds]
        lines = [f"{part.about}. {_differences(first, part)}".rstrip()]
        if shown:
            name = f"{part.experiment}_{_slug(part.title)}.png"
            drawn = partial(write_family_picture, part) if isinstance(part, Family) else _picture(part)
            self.pictures.append(Picture(name, drawn))
            lines += ["", f"![{display.main.title}: {part.experiment}, {part.title}]({PICTURES}/{name})"]
        rows = family_table(part, sources) if isinstance(part, Family) else problem_table(part, sources)
        lines += ["", f"{display.main.title}:", "", *rows]
        lines += [f"\n{said}" for said in repeated_seeds(part.results)]
        lines += [
            f"\n{line.label}: diverged with seed {seed}: {line.run_by_seed[seed].diverged}."
            for line in part.results
            for seed in line.diverged_seeds
        ]
        return [*lines, "", *provenance_lines(part)]


def _picture(problem: Problem) -> Callable[[IO[bytes]], None]:
    display = experiments.display(problem.experiment)
    lines = [line for line in problem.results if line.complete_seeds]
    chosen = list(best_results(lines, display).values())
    if len(lines) > CROWDED and len(chosen) < len(lines):
        return lambda file: write_picture(chosen, display, file, note="Of each method the best of the settings tried.")
    return lambda file: write_picture(lines, display, file)


def _differences(first: Problem, part: Problem | Family) -> str:
    """All settings of the problem, and in which it is not the published one."""
    hidden = part.by if isinstance(part, Family) else None
    own = {name: value for name, value in first.values.items() if name != hidden and value != ""}
    said = f"Settings: {settings_text(own)}."
    cls = experiments.settings_class(part.experiment)
    if "published" not in cls.size_names():
        return said
    standard = cls.of(cls.methods[0], "published")
    differing = {name: getattr(standard, name) for name, value in own.items() if getattr(standard, name) != value}
    return f"{said} " + (f"As published: {settings_text(differing)}." if differing else "These are the published ones.")


def _others(experiment: str, sources: Sources) -> list[str]:
    """Published figures of what is not offered here."""
    display = experiments.display(experiment)
    known = {figure.name: figure for figure in (display.main, *display.others)}
    found = [
        f"- {entry.other}: {entry.text(known[entry.figure])} {sources.refer(entry)}, with {settings_text(entry.where)}"
        for entry in of_experiment(experiment)
        if entry.other
    ]
    return ["Published for what is not among the methods here:", "", *found] if found else []


def _not_shown(found: FoundRuns) -> list[str]:
    lines = []
    if found.unfinished:
        lines += ["", "Begun, not finished (the command that began them goes on with them):", ""]
        lines += [f"- `{run.folder.relative_to(run.out)}`: {rows} rows so far" for run, rows in found.unfinished]
    if found.left_out:
        lines += ["", "Left out:", "", *(f"- {line}" for line in found.left_out)]
    return lines


def _slug(title: str) -> str:
    """A title as part of a file's name.

    >>> _slug("Size quick, but steps 40000, each activation")
    'quick_steps-40000_each-activation'
    """
    parts = title.removeprefix("Size ").replace("but ", "").split(", ")
    return "_".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in parts)
