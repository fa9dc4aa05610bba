"""Runs of one problem together, and problems that differ in one choice alone as a family."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import experiments
from benchmarks.report.markdown import join_names
from benchmarks.run import Run
from benchmarks.settings import Values, settings_text
from benchmarks.summary import MethodResults, results_of

FAMILY = 3  # problems of one shape that are shown together instead of one by one


@dataclass(frozen=True)
class Problem:
    """What all methods are given: the settings that are no method's own, and a result for each method and tuning."""

    experiment: str
    values: Values
    results: tuple[MethodResults, ...]

    @property
    def size(self) -> tuple[str, Values]:
        """The size that it is nearest to, and the settings in which it differs from that."""
        cls = experiments.settings_class(self.experiment)
        found = []
        for size in cls.size_names():
            standard = cls.of(cls.methods[0], size)
            differing = {name: value for name, value in self.values.items() if value != getattr(standard, name)}
            found.append((len(differing), size, differing))
        _, size, differing = min(found, key=lambda each: each[0])
        return size, differing

    @property
    def title(self) -> str:
        """Its name: the size, and what differs from it."""
        size, differing = self.size
        return f"Size {size}" + (f", but {settings_text(differing)}" if differing else "")

    @property
    def about(self) -> str:
        """What it is, in a sentence."""
        said: str = experiments.display(self.experiment).about(self.results[0].settings)
        return said

    @property
    def methods(self) -> list[str]:
        """The methods of its results."""
        return list(dict.fromkeys(result.method for result in self.results))


@dataclass(frozen=True)
class Family:
    """Problems of one shape: they differ in the setting ``by`` alone."""

    by: str
    problems: tuple[Problem, ...]

    @property
    def experiment(self) -> str:
        """Their experiment."""
        return self.problems[0].experiment

    @property
    def title(self) -> str:
        """Its name: that of its first problem, but for the setting that differs."""
        size, differing = self.problems[0].size
        rest = {name: value for name, value in differing.items() if name != self.by}
        name = self.by.replace("_", " ")
        return f"Size {size}" + (f", but {settings_text(rest)}" if rest else "") + f", each {name}"

    @property
    def about(self) -> str:
        """What they are, in a sentence, with all choices where a problem's own has one."""
        choices = join_names([str(problem.values[self.by]) for problem in self.problems], "or")
        settings = dataclasses.replace(self.results[0].settings, **{self.by: choices})
        try:
            said: str = experiments.display(self.experiment).about(settings)
        except KeyError:  # a choice that has a longer name, which only single ones have
            return self.problems[0].about
        return said

    def name(self, result: MethodResults) -> str:
        """What a result is called among all of them."""
        method, _, rest = result.label.partition(", ")
        own = settings_text({self.by: getattr(result.settings, self.by)})
        return ", ".join(filter(None, [method, own, rest]))

    @property
    def results(self) -> tuple[MethodResults, ...]:
        """All results."""
        return tuple(result for problem in self.problems for result in problem.results)


def shared(cls: Any) -> list[str]:
    """Names of the settings that make up a problem: no method's tuning, and with an effect on every method."""
    fields = [field.name for field in dataclasses.fields(cls) if not field.metadata["tuning"]]
    return [name for name in fields if all(cls.affects(name, method) for method in cls.methods)]


def problems(runs: Sequence[Run]) -> list[Problem]:
    """The problems of one experiment's runs: as published before others, then those with more results first."""
    cls = type(runs[0].settings)
    grouped: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: _order(cls, run)):
        key = tuple(getattr(run.settings, name) for name in shared(cls))
        grouped.setdefault(key, []).append(run)
    found = [
        Problem(runs[0].experiment, dict(zip(shared(cls), key, strict=True)), tuple(results_of(own)))
        for key, own in grouped.items()
    ]
    return sorted(found, key=lambda problem: (*_standing(problem), [str(value) for value in problem.values.values()]))


def _order(cls: Any, run: Run) -> tuple[Any, ...]:
    """Methods as the experiment lists them, their tuning ascending; of runs that share a seed the larger first."""
    own = run.settings.affecting(run.method)
    return (cls.methods.index(run.method), [own[name] for name in sorted(own)], -len(run.seeds), run.seeds)


def _standing(problem: Problem) -> tuple[int, int, int]:
    size, differing = problem.size
    sizes = experiments.settings_class(problem.experiment).size_names()
    place = ["published", *sizes].index(size)
    return len(differing), place, -len(problem.results)


def families(found: Sequence[Problem]) -> list[Problem | Family]:
    """The same problems, those of one shape as families."""
    rest, made = list(found), []
    cls = experiments.settings_class(found[0].experiment)
    for name in [name for name in shared(cls) if isinstance(found[0].values[name], str)]:
        alike: dict[tuple[Any, ...], list[Problem]] = {}
        for problem in rest:
            alike.setdefault(tuple(value for key, value in problem.values.items() if key != name), []).append(problem)
        for group in alike.values():
            if len(group) >= FAMILY:
                default = cls.field(name).default
                group.sort(key=lambda one: (one.values[name] != default, one.values[name]))
                made.append(Family(name, tuple(group)))
                rest = [problem for problem in rest if not any(problem is one for one in group)]
    return sorted([*rest, *made], key=lambda one: _standing(one.problems[0] if isinstance(one, Family) else one))
