"""Groups runs by problem, and similar problems into families."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import experiments
from ..run import Run
from ..settings import Values, settings_text
from ..summary import MethodResults, results_of
from .markdown import join_names

FAMILY = 3  # number of similar problems from which they are shown together


@dataclass(frozen=True)
class Problem:
    """What all methods are given (the settings that are not part of a method's tuning), and the results on it."""

    experiment: str
    values: Values
    results: tuple[MethodResults, ...]

    @property
    def size(self) -> tuple[str, Values]:
        """The nearest size, and the settings that differ from it."""
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
        """The size, and what differs from it."""
        size, differing = self.size
        return f"Size {size}" + (f", but {settings_text(differing)}" if differing else "")

    @property
    def about(self) -> str:
        """The problem in one sentence."""
        text: str = experiments.display(self.experiment).about(self.results[0].settings)
        return text

    @property
    def methods(self) -> list[str]:
        """The methods with results."""
        return list(dict.fromkeys(result.method for result in self.results))


@dataclass(frozen=True)
class Family:
    """Problems that differ only in the setting ``by``. ``elsewhere``: similar ones that are not among them, since they
    have more methods.
    """

    by: str
    problems: tuple[Problem, ...]
    elsewhere: tuple[Problem, ...] = ()

    @property
    def experiment(self) -> str:
        """Their experiment."""
        return self.problems[0].experiment

    @property
    def title(self) -> str:
        """The first problem's title without the setting that differs."""
        size, differing = self.problems[0].size
        rest = {name: value for name, value in differing.items() if name != self.by}
        name = self.by.replace("_", " ")
        return f"Size {size}" + (f", but {settings_text(rest)}" if rest else "") + f", each {name}"

    @property
    def about(self) -> str:
        """The problems in one sentence that lists all values of ``by``."""
        choices = join_names([str(problem.values[self.by]) for problem in self.problems], "or")
        settings = dataclasses.replace(self.results[0].settings, **{self.by: choices})
        try:
            text: str = experiments.display(self.experiment).about(settings)
        except KeyError:  # the sentence needs a single value, to look up its display name
            return self.problems[0].about
        return text

    def name(self, result: MethodResults) -> str:
        """The label of a result within the family."""
        method, _, rest = result.label.partition(", ")
        own = settings_text({self.by: getattr(result.settings, self.by)})
        return ", ".join(filter(None, [method, own, rest]))

    @property
    def results(self) -> tuple[MethodResults, ...]:
        """All results."""
        return tuple(result for problem in self.problems for result in problem.results)


def shared(cls: Any) -> list[str]:
    """The settings that define a problem: not part of a method's tuning, and affecting every method."""
    fields = [field.name for field in dataclasses.fields(cls) if not field.metadata["tuning"]]
    return [name for name in fields if all(cls.affects(name, method) for method in cls.methods)]


def problems(runs: Sequence[Run]) -> list[Problem]:
    """The problems of one experiment's runs: the published one first, then those with more results."""
    cls = type(runs[0].settings)
    grouped: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: _order(cls, run)):
        key = tuple(getattr(run.settings, name) for name in shared(cls))
        grouped.setdefault(key, []).append(run)
    found = [
        Problem(runs[0].experiment, dict(zip(shared(cls), key, strict=True)), tuple(results_of(own)))
        for key, own in grouped.items()
    ]
    return sorted(found, key=lambda problem: (*_rank(problem), [str(value) for value in problem.values.values()]))


def _order(cls: Any, run: Run) -> tuple[Any, ...]:
    """Sort key: methods in the experiment's order, then tuning ascending, then larger ensembles first."""
    names = sorted(field.name for field in dataclasses.fields(cls) if cls.affects(field.name, run.method))
    tuning = [getattr(run.settings, name) for name in names]
    return (cls.methods.index(run.method), tuning, -len(run.seeds), run.seeds)


def _rank(problem: Problem) -> tuple[int, int, int]:
    size, differing = problem.size
    sizes = experiments.settings_class(problem.experiment).size_names()
    place = ["published", *sizes].index(size)
    return len(differing), place, -len(problem.results)


def families(found: Sequence[Problem]) -> list[Problem | Family]:
    """The same problems, with similar ones grouped into families. A problem stays alone if it has a method that no
    similar one has.
    """
    rest, made = list(found), []
    if not experiments.display(found[0].experiment).families:
        return list(found)
    cls = experiments.settings_class(found[0].experiment)
    for name in [name for name in shared(cls) if isinstance(found[0].values[name], str)]:
        alike: dict[tuple[Any, ...], list[Problem]] = {}
        for problem in rest:
            alike.setdefault(tuple(value for key, value in problem.values.items() if key != name), []).append(problem)
        for group in alike.values():
            alone, members = _with_and_without_own_methods(group)
            if len(members) >= FAMILY:
                default = cls.field(name).default
                members.sort(key=lambda one: (one.values[name] != default, one.values[name]))
                made.append(Family(name, tuple(members), tuple(alone)))
                rest = [problem for problem in rest if not any(problem is one for one in members)]
    return sorted([*rest, *made], key=lambda one: _rank(one.problems[0] if isinstance(one, Family) else one))


def _with_and_without_own_methods(group: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """The problems with a method that no other of them has, and the others."""
    count = Counter(method for problem in group for method in problem.methods)
    own = [len(group) > 1 and any(count[method] == 1 for method in problem.methods) for problem in group]
    alone = [problem for problem, has in zip(group, own, strict=True) if has]
    return alone, [problem for problem, has in zip(group, own, strict=True) if not has]
