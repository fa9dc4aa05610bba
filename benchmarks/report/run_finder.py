"""Finds the runs in a folder of results, and checks that they are valid for this version."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import experiments
from ..command_name import command_text
from ..errors import CannotRun
from ..record import Record
from ..results_folder import inside
from ..run import Run
from ..saved_values import fields, integer, mapping, scalar, sequence, shown, text
from ..value_checks import MAX_SEED, nearest

_HEAD = fields(
    experiment=text,
    revision=integer(0),
    method=text,
    settings=mapping(scalar),
    seeds=sequence(integer(0, MAX_SEED)),
)


class _Unusable(Exception):
    """Why a record is left out."""


@dataclass
class FoundRuns:
    """The contents of a folder of results.

    Attributes:
        runs: finished, valid runs.
        unfinished: runs that can be continued, and the number of rows of each.
        left_out: a line for each folder that cannot be used, with the reason.
    """

    runs: list[Run] = field(default_factory=list)
    unfinished: list[tuple[Run, int]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def find_runs(out: Path, further: Path | None = None) -> FoundRuns:
    """All runs below ``out``.

    Args:
        out: the folder of results.
        further: a second one, for runs that ``out`` has no finished record of; None: none.

    Raises:
        CannotRun: ``out`` does not exist, or there is no finished run.
    """
    archived = _runs_below(further) if further is not None else FoundRuns()
    if not out.is_dir() and not archived.runs:
        raise CannotRun(f"{out} is not a folder. {_example_command(out)}")
    found = _runs_below(out)
    known = {str(run.head) for run in found.runs}
    found.runs += [run for run in archived.runs if str(run.head) not in known]
    found.left_out += archived.left_out
    if not found.runs:
        seen = [f"{len(found.unfinished)} unfinished"] if found.unfinished else []
        seen += [f"{len(found.left_out)} that cannot be used ({found.left_out[0]})"] if found.left_out else []
        there = f"; only {' and '.join(seen)}" if seen else ""
        raise CannotRun(f"No finished runs below {out}{there}. {_example_command(out)}")
    return found


def _runs_below(out: Path) -> FoundRuns:
    found = FoundRuns()
    for file in sorted(out.glob("*/*/*/record.jsonl")):
        try:
            _take(file, out, found)
        except (_Unusable, CannotRun) as error:
            found.left_out.append(f"`{file.parent.relative_to(out)}`: {error}")
    return found


def _example_command(out: Path) -> str:
    return f"To create some: {command_text(experiments.NAMES[0], '--seeds', '5', '--out', str(out))}"


def _take(file: Path, out: Path, found: FoundRuns) -> None:
    lines = Record(inside(out, file)).lines()
    if not lines:
        raise _Unusable("its record is empty")
    run = run_of(lines[0], out)
    if run.folder != file.parent:
        raise _Unusable(f"is in the wrong folder: its settings belong to {run.folder.relative_to(out)}")
    if not run.finished:
        found.unfinished.append((run, len(run.rows_so_far())))
        return
    run.rows()
    run.about()
    found.runs.append(run)


def run_of(head: Any, out: Path) -> Run:
    """The run that a record's head describes. Raises `_Unusable` if this version has no such run."""
    try:
        _HEAD("", head)
    except ValueError as error:
        raise _Unusable(f"its record does not start with a head: {error}") from None
    experiment, method, given, seeds = (head[name] for name in ("experiment", "method", "settings", "seeds"))
    if experiment not in experiments.NAMES:
        raise _Unusable(f"unknown experiment {shown(experiment)}{nearest(experiment, experiments.NAMES)}")
    cls = experiments.settings_class(experiment)
    if head["revision"] != cls.revision:
        raise _Unusable(f"made with revision {head['revision']} of the settings; this is revision {cls.revision}")
    if method not in cls.methods:
        raise _Unusable(f"unknown method {shown(method)}{nearest(method, cls.methods)}")
    if not seeds or seeds != list(range(seeds[0], seeds[0] + len(seeds))):
        raise _Unusable(f"invalid seeds: {shown(seeds)}")
    return Run(experiment, method, _settings(cls, method, given), tuple(seeds), out)


def _settings(cls: Any, method: str, given: dict[str, Any]) -> Any:
    expected = set(cls.of(method).affecting(method))
    known = {field.name for field in dataclasses.fields(cls) if cls.affects(field.name, method)}
    for what, names in (("has no setting", given.keys() - known), ("also has", expected - given.keys())):
        if names:
            raise _Unusable(f"made with other settings: this version {what} {', '.join(sorted(names)):.200}")
    for name, value in given.items():
        try:
            allowed = cls.field(name).metadata["check"](str(value)) == value
        except argparse.ArgumentTypeError as error:
            raise _Unusable(f"{name}: {error}") from None
        if not allowed:
            raise _Unusable(f"{name}: {shown(value)} is not a valid value")
    return cls(**given)
