"""The record of a measurement: a JSON file that tables, pictures and later comparisons are made from."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path
from typing import Any

from .. import provenance
from ..command_name import command_text
from ..errors import CannotRun
from ..saved_values import fields, one_of, parse_json, shown
from .allocator import describe
from .record_kind import RECORD

FORMAT, VERSION = "gnt speed", 1


def new_record(command_line: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A record without measurements."""
    import torch

    return {
        "format": FORMAT,
        "version": VERSION,
        "complete": False,
        "command": command_line,
        "settings": settings,
        "about": {
            "began": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "hardware": provenance.hardware(),
            "gpu": torch.cuda.get_device_name() if settings.get("device") == "cuda" else None,
            "threads": torch.get_num_threads(),
            "allocator": describe(),
        },
        "quietness": None,
        "memory": [],
        "workloads": [],
    }


def load(file: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        CannotRun: the file does not exist, is not a record, has another version, or is damaged.
    """
    try:
        record: dict[str, Any] = parse_json(file.read_bytes())
        fields(format=one_of(FORMAT))("", record)
    except FileNotFoundError:
        raise CannotRun(f"{file} does not exist.") from None
    except (OSError, ValueError) as error:
        raise CannotRun(f"{file} is not a record of {command_text('speed')}: {error}.") from error
    if type(record.get("version")) is not int or record["version"] != VERSION:
        version = shown(record.get("version"))
        raise CannotRun(f"{file} is a record of version {version}; this command reads version {VERSION}.")
    try:
        RECORD("", record)
    except ValueError as error:
        raise CannotRun(f"{file} is damaged: {error}. Measure again, with --output for another file.") from error
    return record


def default_file(out: Path) -> Path:
    """The default file of a record, named by commit, or outside a checkout by version, and by time."""
    commit = provenance.commit()
    if commit is None:
        code = f"gnt-{provenance.versions()['gnt']}"
    else:
        code = commit[:8] + ("+" if commit.endswith("+changes") else "")
    return out / "speed" / f"{code}_{datetime.datetime.now():%Y%m%d-%H%M%S}.json"


def check_writable(file: Path) -> None:
    """Raise `CannotRun` if the file cannot be written, before anything is measured."""
    if file.is_dir():
        raise CannotRun(f"Cannot write {file}: this is a folder.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise CannotRun(f"Cannot write {file}: {error}.") from error
