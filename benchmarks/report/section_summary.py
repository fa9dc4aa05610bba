"""What the table at the top of the page and the list of missing runs say of an experiment, as data.

It is made from records, and written beside the page: a report that keeps the section of an experiment without records
takes it from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import experiments
from ..atomic_files import read_json
from ..errors import CannotRun
from ..method_names import MAIN_METHODS
from ..method_styles import LABELS
from ..published import nearest_to
from ..saved_values import (
    Kind,
    fields,
    integer,
    mapping,
    number,
    one_of,
    optional,
    scalar,
    sequence,
    text,
)
from ..settings import Values, settings_text
from ..summary import Estimate, MethodResults, best_results, estimate
from .problems import Family, Problem
from .result_tables import of_experiment

OTHER_SETTINGS: Final = "†"
"""Mark of a published value with other settings than ours."""


@dataclass(frozen=True)
class MethodSummary:
    """A method's results on a problem, with the best of the settings tried.

    Attributes:
        method: its name.
        seeds: number of complete seeds.
        mean, half: the main metric over the last part of the run, and the half-width of its 95% interval; None if there
            is none.
        last: seed, as text -> the same of each seed. Empty if only mean and interval are known.
        published: the published value with the nearest settings, as short text.
        plasticity: what the plasticity check says, as short text.
    """

    method: str
    seeds: int
    mean: float | None
    half: float | None
    last: dict[str, float]
    published: str
    plasticity: str

    @property
    def end(self) -> Estimate | None:
        """Mean and interval; None if no seed is complete."""
        return None if self.mean is None else Estimate(self.mean, self.half)

    @property
    def by_seed(self) -> dict[int, float]:
        """The main metric over the last part of each seed's run."""
        return {int(seed): value for seed, value in self.last.items()}


@dataclass(frozen=True)
class ProblemSummary:
    """The results on a problem.

    Attributes:
        size: the nearest size.
        differing: the settings that differ from it.
        value: of a family's problem, what distinguishes it from the others.
        seeds: the least and the largest number of complete seeds.
        methods: the methods, each with the best of its settings.
    """

    size: str
    differing: Values
    value: str
    seeds: tuple[int, int]
    methods: tuple[MethodSummary, ...]

    @property
    def complete(self) -> dict[str, MethodSummary]:
        """The methods with a complete seed."""
        return {each.method: each for each in self.methods if each.mean is not None}


@dataclass(frozen=True)
class PartSummary:
    """A problem, or the problems of a family: ``by`` is the setting in which they differ, "" for a single one."""

    by: str
    problems: tuple[ProblemSummary, ...]

    @property
    def title(self) -> str:
        """The title of the part, as in the section."""
        first = self.problems[0]
        own = {name: value for name, value in first.differing.items() if name != self.by}
        return (
            f"Size {first.size}"
            + (f", but {settings_text(own)}" if own else "")
            + (f", each {self.by.replace('_', ' ')}" if self.by else "")
        )

    @property
    def seeds_by_method(self) -> dict[tuple[str, str], int]:
        """What distinguishes the problem from others of its family, and the method -> number of complete seeds."""
        return {(problem.value, each.method): each.seeds for problem in self.problems for each in problem.methods}


def summary_of(part: Problem | Family) -> PartSummary:
    """The summary of a part of an experiment's section."""
    if isinstance(part, Family):
        return PartSummary(part.by, tuple(_problem(one, str(one.values[part.by])) for one in part.problems))
    return PartSummary("", (_problem(part, ""),))


def _problem(problem: Problem, value: str) -> ProblemSummary:
    display = experiments.display(problem.experiment)
    chosen = best_results(problem.results, display)
    counts = [len(result.complete_seeds) for result in problem.results]
    methods = []
    for method in problem.methods:
        result = chosen.get(method)
        if result is None:
            methods.append(MethodSummary(method, 0, None, None, {}, "", ""))
            continue
        last = result.mean_by_seed(display.main.name, 1.0 - display.last, 1.0)
        end, by_seed = estimate(list(last.values())), {str(seed): each for seed, each in last.items()}
        methods.append(
            MethodSummary(method, len(last), end.mean, end.half, by_seed, _published(result), result.plasticity)
        )
    return ProblemSummary(*problem.size, value, (min(counts), max(counts)), tuple(methods))


def _published(line: MethodResults) -> str:
    """The published main metric with the nearest settings, as short text."""
    display = experiments.display(line.runs[0].experiment)
    found = nearest_to(of_experiment(line.runs[0].experiment), line.settings, line.method)
    main = [(entry, differing) for entry, differing in found if entry.figure == display.main.name]
    if not main:
        return ""
    entry, differing = main[0]
    return entry.text(display.main) + (OTHER_SETTINGS if differing else "")


Summaries = dict[str, list[PartSummary]]
"""The parts of each experiment's section."""

_METHOD = fields(
    method=one_of(*LABELS),
    seeds=integer(0),
    mean=optional(number()),
    half=optional(number(0)),
    last=mapping(number()),
    published=text,
    plasticity=text,
)
_PROBLEM = fields(
    size=text, differing=mapping(scalar), value=text, seeds=sequence(integer(0), 2), methods=sequence(_METHOD)
)
_PART = fields(by=text, problems=sequence(_PROBLEM))
_KIND: Kind = mapping(sequence(_PART))


def as_json(summaries: Summaries) -> dict[str, Any]:
    """The summaries as JSON."""
    return {name: [dataclasses.asdict(part) for part in parts] for name, parts in summaries.items()}


def read_summaries(file: Path, names: Sequence[str]) -> Summaries:
    """The summaries of the experiments with these names; empty if there is no file.

    Raises:
        CannotRun: the file cannot be read, or does not contain summaries.
    """
    if not file.exists():
        return {}
    try:
        content = read_json(file, _KIND)
    except CannotRun as error:
        raise CannotRun(f"{str(error).partition('. Move it away')[0]}. Move it away, or leave out --keep.") from None
    return {name: [_part(raw) for raw in content[name]] for name in names if name in content}


def _part(raw: dict[str, Any]) -> PartSummary:
    return PartSummary(raw["by"], tuple(_problem_of(each) for each in raw["problems"]))


def _problem_of(raw: dict[str, Any]) -> ProblemSummary:
    names = [field.name for field in dataclasses.fields(MethodSummary)]
    methods = tuple(MethodSummary(**{name: each[name] for name in names}) for each in raw["methods"])
    return ProblemSummary(raw["size"], raw["differing"], raw["value"], tuple(raw["seeds"]), methods)


def shown_at_the_top(parts: Sequence[PartSummary]) -> list[PartSummary]:
    """The parts with both backprop and continual backprop; if there are none, the first."""
    return [part for part in parts if set(MAIN_METHODS) <= part.problems[0].complete.keys()] or list(parts[:1])
