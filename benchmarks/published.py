"""Published values, read from ``published.json``. They are shown beside our results; settings are never tuned to them.

The file has a part for each experiment: ``must_agree``, the settings that have to be equal for a comparison to make
sense, and ``entries``. Keys of an entry:

    method or other     one of the experiment's methods, or the name of a method that is not offered here
    where               settings of the published run, as far as they are known
    figure              a metric of the experiment's rows
    values              "start", "end", "mean" or "peak": a number, or [low, high]; null for an unknown bound
    tag                 where the number comes from: a key of `TAGS`
    source              the publication, with figure or table if known
    note                remarks (optional)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import experiments
from .atomic_files import read_json
from .display import Metric
from .errors import CannotRun
from .saved_values import (
    Kind,
    any_of,
    anything,
    fields,
    known_fields,
    mapping,
    number,
    optional,
    scalar,
    sequence,
    shown,
    text,
)
from .settings import BaseSettings, Values
from .value_checks import nearest

FILE = Path(__file__).with_name("published.json")
TAGS = {
    "authors": "in the authors' text or configuration",
    "plot": "read off a plot",
    "secondary": "quoted by a secondary source",
    "outside": "an independent reproduction",
}
WHEN = ("start", "end", "mean", "peak")
_NEEDED = ("where", "figure", "values", "tag", "source")
_ALLOWED = (*_NEEDED, "method", "other", "note")
_PART = fields(must_agree=sequence(text), entries=sequence(anything))
_ENTRY = known_fields(
    **dict.fromkeys(("figure", "tag", "source", "method", "other", "note"), text),
    where=mapping(scalar),
    values=mapping(anything),
)


@dataclass(frozen=True)
class Entry:
    """A published metric of one method."""

    experiment: str
    method: str | None
    other: str | None
    where: Values
    figure: str
    values: dict[str, Any]
    tag: str
    source: str
    note: str
    must_agree: tuple[str, ...]

    def differing(self, settings: BaseSettings, method: str) -> Values | None:
        """The settings of the published run that differ from these; None if the two are not comparable."""
        ours = settings.affecting(method)
        differing = {name: value for name, value in self.where.items() if name in ours and ours[name] != value}
        return None if any(name in differing for name in self.must_agree) else differing

    def text(self, figure: Metric) -> str:
        """Its values as text.

        >>> entry = Entry("", "", "", {}, "", {"start": 0.62, "end": [1.2, 1.3]}, "plot", "", "", ())
        >>> entry.text(Metric("", ""))
        'start 0.62, end 1.2 to 1.3'
        """
        return ", ".join(f"{when} {_number(value, figure)}" for when, value in self.values.items())


def _number(value: Any, figure: Metric) -> str:
    if not isinstance(value, list):
        return f"{100 * value:g}%" if figure.percent else f"{value:,g}"
    low, high = value
    if low is None or high is None:
        return f"below {_number(high, figure)}" if low is None else f"above {_number(low, figure)}"
    return f"{_number(low, figure).removesuffix('%')} to {_number(high, figure)}"


def nearest_to(entries: Sequence[Entry], settings: BaseSettings, method: str) -> list[tuple[Entry, Values]]:
    """The method's entries with the fewest differing settings, each with these settings."""
    found = []
    for entry in entries:
        if entry.method == method:
            differing = entry.differing(settings, method)
            if differing is not None:
                found.append((entry, differing))
    fewest = min((len(differing) for _, differing in found), default=0)
    return [(entry, differing) for entry, differing in found if len(differing) == fewest]


@cache
def entries(file: Path = FILE) -> tuple[Entry, ...]:
    """All entries.

    Raises:
        CannotRun: the file cannot be read, or an experiment, method, metric, setting, value or tag in it is unknown;
            the message suggests the most similar known name.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise CannotRun(f"{file}: must have a part for each experiment, got {type(content).__name__}")
    found = []
    for experiment, part in content.items():
        where = f"{file}: {experiment}"
        _known("experiment", experiment, experiments.NAMES, str(file))
        if not isinstance(part, dict) or part.keys() != {"must_agree", "entries"}:
            raise CannotRun(f"{where}: must have exactly the keys must_agree and entries")
        _check_kind(_PART, part, where)
        for name in part["must_agree"]:
            experiments.settings_class(experiment).field(name)
        found += [
            _entry(experiment, raw, tuple(part["must_agree"]), f"{where}, entry {number}")
            for number, raw in enumerate(part["entries"], 1)
        ]
    return tuple(found)


def _known(what: str, name: Any, known: Sequence[str], where: str) -> None:
    if name not in known:
        raise CannotRun(f"{where}: unknown {what} {name!r}{nearest(str(name), known)}")


def _entry(experiment: str, raw: Any, must_agree: tuple[str, ...], where: str) -> Entry:
    cls, display = experiments.settings_class(experiment), experiments.display(experiment)
    if not isinstance(raw, dict):
        raise CannotRun(f"{where}: must be an object with {', '.join(_NEEDED)}, got {shown(raw)}")
    for name in raw:
        _known("key", name, _ALLOWED, where)
    missing = [name for name in _NEEDED if not raw.get(name)]
    if missing or ("method" in raw) == ("other" in raw):
        raise CannotRun(
            f"{where}: {missing[0]} is missing" if missing else f"{where}: must have either method or other"
        )
    _check_kind(_ENTRY, raw, where)
    if "method" in raw:
        _known("method", raw["method"], cls.methods, where)
    _known("figure", raw["figure"], [figure.name for figure in (display.main, *display.others)], where)
    _known("tag", raw["tag"], list(TAGS), where)
    for name, value in raw["where"].items():
        _check_setting(cls, raw.get("method"), name, value, where)
    for when, value in raw["values"].items():
        _known("value", when, WHEN, where)
        _check_value(value, f"{where}, {when}")
    given = {name: raw.get(name) for name in ("method", "other", *_NEEDED)}
    return Entry(experiment, **given, note=raw.get("note", ""), must_agree=must_agree)  # type: ignore[arg-type]


def _check_setting(cls: Any, method: str | None, name: str, value: Any, where: str) -> None:
    try:
        allowed = cls.field(name).metadata["check"](str(value))
    except (CannotRun, argparse.ArgumentTypeError) as error:
        raise CannotRun(f"{where}, where {name}: {error}") from None
    if allowed != value:
        raise CannotRun(f"{where}, where {name}: {value!r} is not a valid value; use {allowed!r}")
    if method is not None and not cls.affects(name, method):
        raise CannotRun(f"{where}, where {name}: has no effect on {method}")


def _check_value(value: Any, where: str) -> None:
    try:
        any_of(number(), sequence(optional(number()), 2))("", value)
        allowed = value != [None, None]
    except ValueError:
        allowed = False
    if not allowed:
        raise CannotRun(f"{where}: must be a number or [low, high], got {shown(value)}")


def _check_kind(kind: Kind, value: Any, where: str) -> None:
    try:
        kind("", value)
    except ValueError as error:
        raise CannotRun(f"{where}: {error}") from None
