"""The page in Markdown, and its pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TypeVar

from .. import experiments
from ..command_name import command_text
from ..comparison_picture import write_picture
from ..display import Display, FurtherPicture
from ..method_styles import LABELS
from ..plot_layout import save
from ..settings import settings_text
from ..summary import MethodResults, best_results
from ..task_pictures import ACCURACIES
from .earlier_page import CITED, EarlierPage
from .family_picture import write_family_picture
from .further_methods import FURTHER, Rows, after_their_parts, parts_of, rows_without_runs, with_rows
from .markdown import join_names
from .missing_runs import missing_runs
from .overview import NOTES, overview
from .paired_differences import paired_differences
from .problems import Family, Problem, families, problems
from .provenance import provenance_lines, repeated_seeds
from .rerun_commands import default_command
from .result_tables import Sources, family_table, of_experiment, problem_table
from .run_finder import FoundRuns
from .section_summary import Summaries

T = TypeVar("T")

PICTURES = "results"  # the folder beside the page
CROWDED = 8  # curves in a picture; with more, only the best of each method are shown

_INTRODUCTION = """\
# Results

Experiments of the literature on loss of plasticity and on forgetting, run with this library: backpropagation, continual
backpropagation (CBP), which replaces the least useful units step by step, and other methods."""

_RERUN = f"""\
Each experiment has a section below: tables, pictures, and for each row command, commit, seeds, hardware and time.
`{command_text("report")}` wrote this page and its pictures from the records of finished runs; nothing in it is
edited by hand. `{command_text("EXPERIMENT", "--help")}` lists the settings. "first", "last" and "mean" are means over
these parts of a run's rows. Published values are those with the nearest settings; "with" lists the settings in which
they differ from these runs. Their "start" and "end" are the first and the last
published point, while ours are means. "Best of the settings tried" is by the mean over the whole run, with the seeds
that are shown, among the settings with the most seeds, and of these with the fewest that diverged or were stopped.
"plasticity check" is what `gnt.plasticity_check` says of the networks at the end of a run, when they and fresh ones
learn what comes next: the verdict, with the number of seeds if they differ, and the share of a fresh network's progress
that is lost; "not measured" where the check was not made. "core seconds" is the time of one core for a seed."""


@dataclass(frozen=True)
class Picture:
    """A picture of the page: the name of its file, and the function that draws it."""

    name: str
    draw: Callable[[IO[bytes]], None]


class Page:
    """The page of all results: ``text``, ``pictures``, and ``summaries``, the data of the table at its top.

    Args:
        found: the runs.
        earlier: what an existing page says about experiments; used for those without a finished run.

    Raises:
        CannotRun: a part would lose seeds or methods that it has on the existing page.
    """

    def __init__(self, found: FoundRuns, earlier: EarlierPage | None = None) -> None:
        self.pictures: list[Picture] = []
        by_experiment = {
            name: problems(runs)
            for name in experiments.NAMES
            if (runs := [run for run in found.runs if run.experiment == name])
        }
        made = {name: families(own) for name, own in by_experiment.items()}
        earlier = earlier or EarlierPage()
        self._rows: dict[tuple[str, str], Rows] = {
            (name, part.title): rows_without_runs(part, earlier.summaries.get(name, []), earlier.sections.get(name, []))
            for name, parts in made.items()
            for part in parts
        }
        titles = {name: {part.title for part in parts} for name, parts in made.items()}
        texts = {
            name: {title + FURTHER for title in own} | {title for title in own if not self._rows[name, title]}
            for name, own in titles.items()
        }
        self.earlier = earlier.without(texts, titles)
        summaries = {
            name: [with_rows(part, self._rows[name, part.title]) for part in parts] for name, parts in made.items()
        }
        sections = self.earlier.sections | {
            name: self._experiment(name, parts, self.earlier.sections.get(name, [])) for name, parts in made.items()
        }
        known: Summaries = {
            name: published_first(
                [*summaries.get(name, []), *self.earlier.summaries.get(name, [])], lambda one: one.title
            )
            for name in experiments.NAMES
        }
        self.summaries = {name: parts for name, parts in known.items() if parts}
        parts = [
            _INTRODUCTION.splitlines(),
            overview(self.summaries),
            NOTES.splitlines(),
            _RERUN.splitlines(),
            [
                "## What was run, and what is missing",
                "",
                *missing_runs(self.summaries, tuple(sections)),
                *_not_shown(found),
            ],
            *(sections[name] for name in experiments.NAMES if name in sections),
        ]
        self.text = "\n\n".join("\n".join(lines) for lines in parts) + "\n"

    def _experiment(self, name: str, parts: list[Problem | Family], kept: list[str]) -> list[str]:
        cls, sources = experiments.settings_class(name), Sources()
        lines = [f"## {name}", "", f"{cls.help[0].upper()}{cls.help[1:]}. To run it: `{default_command(name)}`."]
        for note in experiments.display(name).notes:
            lines += ["", note]
        further: dict[str, list[str]] = {}
        made: list[str] = []
        for part in parts:
            if self._rows[name, part.title]:
                title = part.title + FURTHER
                further[part.title] = ["", f"### {title}", "", *self._part(part, title, sources)]
            else:
                made += ["", f"### {part.title}", "", *self._part(part, part.title, sources)]
        both = (*parts_of(made), *parts_of(after_their_parts(kept, further)))
        for _, own in published_first(both, lambda part: part[0]):
            lines += own
        others = _others(name, sources)
        known = sources.lines()
        lines += ["", *others] if others else []
        lines += ["", "Published values:", "", *(f"- {line}" for line in known)] if known else []
        lines += [] if known or CITED in kept else ["", "Published values for comparable settings: none."]
        return lines

    def _part(self, part: Problem | Family, title: str, sources: Sources) -> list[str]:
        display = experiments.display(part.experiment)
        first = part.problems[0] if isinstance(part, Family) else part
        complete = [result for result in part.results if result.complete_seeds]
        lines = [f"{part.about}. {_differences(first, part)}".rstrip(), *_elsewhere(part)]
        if complete:
            name = f"{part.experiment}_{_slug(title)}.png"
            drawn = partial(write_family_picture, part) if isinstance(part, Family) else _picture(part)
            self.pictures.append(Picture(name, drawn))
            lines += ["", f"![{display.main.title}: {part.experiment}, {title}]({PICTURES}/{name})"]
            lines += self._further(part)
        rows = family_table(part, sources) if isinstance(part, Family) else problem_table(part, sources)
        lines += ["", f"{display.main.title}:", "", *rows]
        lines += paired_differences(part, self._rows[part.experiment, part.title])
        lines += [f"\n{text}" for text in repeated_seeds(part.results)]
        lines += [
            f"\n{result.label}: diverged with seed {seed}: {result.run_by_seed[seed].diverged}."
            for result in part.results
            for seed in result.diverged_seeds
        ]
        lines += [
            f"\n{result.label}: {len(result.stopped_seeds)} seeds were stopped because another seed of their ensemble "
            "diverged: train them without it."
            for result in part.results
            if result.stopped_seeds
        ]
        return [*lines, "", *provenance_lines(part)]

    def _further(self, part: Problem | Family) -> list[str]:
        """The further pictures of the experiment, for each problem."""
        display, lines = experiments.display(part.experiment), []
        for problem in part.problems if isinstance(part, Family) else [part]:
            results = [result for result in problem.results if result.has(ACCURACIES)]
            for further in display.further if results else ():
                title = problem.title + (FURTHER if self._rows[part.experiment, part.title] else "")
                name = f"{part.experiment}_{_slug(title)}_{further.name}.png"
                drawn = partial(_draw_further, further, results, display)
                self.pictures.append(Picture(name, drawn))
                lines += ["", f"![{further.title}: {part.experiment}, {title}]({PICTURES}/{name})"]
        return lines


def published_first(parts: Iterable[T], title: Callable[[T], str]) -> list[T]:
    """The parts of the published size before the others, whose order stays."""
    return sorted(parts, key=lambda part: title(part).removesuffix(FURTHER) != "Size published")


def _picture(problem: Problem) -> Callable[[IO[bytes]], None]:
    display = experiments.display(problem.experiment)
    results = [result for result in problem.results if result.complete_seeds]
    chosen = list(best_results(results, display).values())
    if len(results) > CROWDED and len(chosen) < len(results):
        named = [replace(result, label=LABELS[result.method]) for result in chosen]  # settings are in the table
        return lambda file: write_picture(named, display, file, note="For each method the best of the settings tried.")
    return lambda file: write_picture(results, display, file)


def _draw_further(further: FurtherPicture, results: list[MethodResults], display: Display, file: IO[bytes]) -> None:
    save(further.draw(results, display), file)


def _differences(first: Problem, part: Problem | Family) -> str:
    """All settings of the problem, and how they differ from the published ones."""
    hidden = part.by if isinstance(part, Family) else None
    own = {name: value for name, value in first.values.items() if name != hidden and value != ""}
    text = f"Settings: {settings_text(own)}."
    cls = experiments.settings_class(part.experiment)
    if "published" not in cls.size_names():
        return text
    standard = cls.of(cls.methods[0], "published")
    differing = {name: getattr(standard, name) for name, value in own.items() if getattr(standard, name) != value}
    return f"{text} " + (
        f"Published: {settings_text(differing)}." if differing else "These are the published settings."
    )


def _elsewhere(part: Problem | Family) -> list[str]:
    """Where the similar problems with more methods are."""
    if not isinstance(part, Family) or not part.elsewhere:
        return []
    names = [f'{part.by.replace("_", " ")} {one.values[part.by]} is in "{one.title}"' for one in part.elsewhere]
    return ["", f"With more methods: {join_names(names)}."]


def _others(experiment: str, sources: Sources) -> list[str]:
    """Published values of methods that are not offered here."""
    display = experiments.display(experiment)
    known = {figure.name: figure for figure in (display.main, *display.others)}
    found = [
        f"- {entry.other}: {'' if entry.figure == display.main.name else f'{known[entry.figure].title}: '}"
        f"{entry.text(known[entry.figure])} {sources.refer(entry)}, with {settings_text(entry.where)}"
        for entry in of_experiment(experiment)
        if entry.other
    ]
    return ["Published values of other methods:", "", *found] if found else []


def _not_shown(found: FoundRuns) -> list[str]:
    lines = []
    if found.unfinished:
        lines += ["", "Unfinished (the command that started them continues them):", ""]
        lines += [f"- `{run.folder.relative_to(run.out)}`: {rows} rows so far" for run, rows in found.unfinished]
    if found.left_out:
        lines += ["", "Left out:", "", *(f"- {line}" for line in found.left_out)]
    return lines


def _slug(title: str) -> str:
    """A title as part of a file name.

    >>> _slug("Size quick, but steps 40000, each activation")
    'quick_steps-40000_each-activation'
    """
    parts = title.removeprefix("Size ").replace("but ", "").split(", ")
    return "_".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in parts)
