"""Which runs a command asks for: methods x grid x seeds."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import experiments
from .errors import CannotRun
from .run import Run
from .settings import Values, flag


@dataclass(frozen=True)
class RunPlan:
    """The runs that a command asks for.

    Attributes:
        experiment: name of the experiment.
        methods: names of the methods.
        size: name of the size; None: the default size.
        given: settings given on the command line.
        grid: settings with several values, all combinations of which are run.
        seeds: all seeds.
        every: whether the methods were not named one by one: those that cannot run with given settings are left out.
    """

    experiment: str
    methods: tuple[str, ...]
    size: str | None
    given: Values
    grid: dict[str, list[Any]]
    seeds: tuple[int, ...]
    every: bool = False

    def runs(self, out: Path) -> list[Run]:
        """The runs. Those of one seed come before those of the next, so that all methods progress at the same rate.

        Raises:
            CannotRun: settings that no method has, or with which a method cannot run.
        """
        self._check()
        cls = experiments.settings_class(self.experiment)
        singles: list[Run] = []
        ensembles: list[Run] = []
        for seed, combination in itertools.product(self.seeds, self._combinations()):
            for method in self.methods:
                own = {name: value for name, value in (self.given | combination).items() if cls.affects(name, method)}
                settings = cls.of(method, self.size, **own)
                if self.every and settings.refusal(method):
                    continue
                settings.check(method)
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
            raise CannotRun(f"{flag(min(both))} is given both by itself and in --grid. Give it once.")
        unused = [
            name for name in [*self.given, *self.grid] if not any(cls.affects(name, method) for method in self.methods)
        ]
        if unused:
            raise CannotRun(f"{', '.join(map(flag, unused))}: no effect on {' and '.join(self.methods)}.")


def read_grid(cls: Any, texts: Iterable[str]) -> dict[str, list[Any]]:
    """Parse ``--grid lr=.01,.003 activation=relu,tanh`` into setting -> values.

    Raises:
        CannotRun: unknown setting, invalid value, or a setting or value given twice.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        check = cls.field(name).metadata["check"]
        if not equals or not values.strip(","):
            raise CannotRun(f"--grid takes NAME=VALUE,VALUE,..., got {text!r}")
        if name in grid:
            raise CannotRun(f"--grid: {name} is given twice")
        try:
            grid[name] = [check(value.strip()) for value in values.split(",")]
        except argparse.ArgumentTypeError as error:
            raise CannotRun(f"--grid {name}: {error}") from None
        if len(set(grid[name])) < len(grid[name]):
            raise CannotRun(f"--grid {name}: a value is given twice: {values}")
    return grid
