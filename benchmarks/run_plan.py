"""From a command line to runs: methods times grid times seeds."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import experiments
from benchmarks.errors import CannotRun
from benchmarks.run import Run
from benchmarks.settings import Values, flag


@dataclass(frozen=True)
class RunPlan:
    """What is asked for.

    Attributes:
        experiment: its name.
        methods: their names.
        size: the size, None for the default one.
        given: settings that stand on the command line.
        grid: settings with the values that are tried, each with each.
        seeds: all seeds.
    """

    experiment: str
    methods: tuple[str, ...]
    size: str | None
    given: Values
    grid: dict[str, list[Any]]
    seeds: tuple[int, ...]

    def runs(self, out: Path) -> list[Run]:
        """The runs, those of one seed before those of the next, so that all methods get on alike."""
        self._check()
        cls = experiments.settings_class(self.experiment)
        singles: list[Run] = []
        ensembles: list[Run] = []
        for seed, combination in itertools.product(self.seeds, self._combinations()):
            for method in self.methods:
                own = {name: value for name, value in (self.given | combination).items() if cls.affects(name, method)}
                settings = cls.of(method, self.size, **own)
                together = method in cls.ensemble_methods and len(self.seeds) > 1
                run = Run(self.experiment, method, settings, self.seeds if together else (seed,), out)
                (ensembles if together else singles).append(run)
        return list(dict.fromkeys([*ensembles, *singles]))

    def _combinations(self) -> Iterator[Values]:
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def _check(self) -> None:
        cls = experiments.settings_class(self.experiment)
        both = self.given.keys() & self.grid.keys()
        if both:
            raise CannotRun(f"{flag(min(both))}: given once, and in --grid too. Give it in one place.")
        unused = [
            name for name in [*self.given, *self.grid] if not any(cls.affects(name, method) for method in self.methods)
        ]
        if unused:
            raise CannotRun(f"{', '.join(map(flag, unused))}: of no effect on {' and '.join(self.methods)}.")


def read_grid(cls: Any, texts: Iterable[str]) -> dict[str, list[Any]]:
    """``--grid lr=.01,.003 activation=relu,tanh`` -> setting -> values.

    Raises:
        CannotRun: unknown setting (the nearest is offered), a value that is not allowed, or one twice.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        check = cls.field(name).metadata["check"]
        if not equals or not values.strip(","):
            raise CannotRun(f"--grid takes NAME=VALUE,VALUE,..., got {text!r}")
        if name in grid:
            raise CannotRun(f"--grid has {name} twice")
        try:
            grid[name] = [check(value.strip()) for value in values.split(",")]
        except argparse.ArgumentTypeError as error:
            raise CannotRun(f"--grid {name}: {error}") from None
        if len(set(grid[name])) < len(grid[name]):
            raise CannotRun(f"--grid {name} has a value twice: {values}")
    return grid
