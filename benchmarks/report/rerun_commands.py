"""The commands that reproduce runs. Each is parsed by the command line's own parser to check that it yields these
runs.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..command_name import command_text
from ..errors import CannotRun
from ..experiment_options import parse_plan
from ..run import Run
from ..settings import Values, flag

NONE = "no command of this version reproduces exactly this run"


def commands(runs: Sequence[Run]) -> list[str]:
    """Commands that produce exactly these runs, which have one method and one choice of settings."""
    together = runs[0].method in type(runs[0].settings).ensemble_methods
    found = []
    for group in _consecutive([run for run in runs if len(run.seeds) == 1], joined=not together):
        found.append(_command(group))
    found += [_command([run]) for run in runs if len(run.seeds) > 1]
    return [text or NONE for text in found]


def one_command(runs: Sequence[Run]) -> str | None:
    """One command that produces exactly these runs of one experiment; None if that takes several."""
    return _command(list(runs))


def _consecutive(runs: list[Run], *, joined: bool) -> list[list[Run]]:
    """Groups of single-seed runs with consecutive seeds."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: run.seeds):
        if joined and groups and groups[-1][-1].seeds[-1] + 1 == run.seeds[0]:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def _command(runs: list[Run]) -> str | None:
    """The command with the size from which the fewest settings differ."""
    cls = type(runs[0].settings)
    found = [made for size in cls.size_names() if (made := _of_size(runs, size)) is not None]
    return min(found, default=(0, None))[1]


def _of_size(runs: list[Run], size: str) -> tuple[int, str] | None:
    """Number of settings in the command, and the command."""
    cls = type(runs[0].settings)
    seeds = sorted({seed for run in runs for seed in run.seeds})
    methods = sorted({run.method for run in runs}, key=cls.methods.index)
    grid = _grid(runs)
    given: Values = {}
    for run in runs:
        standard = cls.of(run.method, size)
        for name, value in run.settings.affecting(run.method).items():
            if name not in grid and value != getattr(standard, name) and given.setdefault(name, value) != value:
                return None
    words = [runs[0].experiment]
    words += ["--size", size] if size != cls.size_names()[0] else []
    words += ["--methods", *methods, "--seeds", str(len(seeds))]
    words += ["--first-seed", str(seeds[0])] if seeds[0] else []
    tried = [f"{name}={','.join(map(str, values))}" for name, values in grid.items()]
    words += ["--grid", *tried] if tried else []
    flags = [
        [f"{flag(name)}={value}"] if str(value)[:1] in ("-", "") else [flag(name), str(value)]
        for name, value in given.items()
    ]
    if not makes(_all(words, flags), runs):
        return None
    for each in list(flags):  # leave out options that others imply
        fewer = [other for other in flags if other is not each]
        if makes(_all(words, fewer), runs):
            flags = fewer
    return len(flags), command_text(*_all(words, flags))


def _all(words: list[str], flags: list[list[str]]) -> list[str]:
    return [*words, *itertools.chain.from_iterable(flags)]


def _grid(runs: list[Run]) -> dict[str, list[Any]]:
    """Settings for which a method has several values."""
    values: dict[str, dict[str, list[Any]]] = {}
    for run in runs:
        for name, value in run.settings.affecting(run.method).items():
            own = values.setdefault(name, {}).setdefault(run.method, [])
            own += [value] if value not in own else []
    several = {name: max(by_method.values(), key=len) for name, by_method in values.items()}
    return {name: own for name, own in several.items() if len(own) > 1}


def makes(arguments: list[str], runs: Sequence[Run]) -> bool:
    """Whether a command with these arguments yields exactly these runs."""
    out: Path = runs[0].out
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            plan, _ = parse_plan(arguments[0], arguments[1:])
            made = plan.runs(out)
    except (CannotRun, SystemExit):
        return False
    return {str(run.head) for run in made} == {str(run.head) for run in runs}  # wherever their folders are


def default_command(experiment: str) -> str:
    """The command that runs an experiment's default comparison."""
    return command_text(experiment, "--seeds", "5")
