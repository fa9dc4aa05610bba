"""Provenance of results: versions, commit and hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from .saved_values import all_of, anything, fields, integer, known_fields, mapping, number, optional, text

ABOUT = all_of(
    fields(
        seconds=number(0),
        versions=mapping(text),
        hardware=all_of(mapping(anything), known_fields(processor=text, cores=optional(integer(1)), instructions=text)),
        commit=optional(text),
    ),
    known_fields(wall_seconds=number(0)),  # runs of earlier versions have none
)
"""The content of about.json, as a kind of `benchmarks.saved_values`."""

ROOT = Path(__file__).resolve().parent.parent


def time_text(seconds: float) -> str:
    """A time as text.

    >>> time_text(12.4), time_text(400), time_text(9000)
    ('12 s', '6.7 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def versions() -> dict[str, str]:
    """Versions of the software that results depend on. A run is continued only with the versions that it was started
    with.
    """
    import torch

    import gnt

    return {"gnt": gnt.__version__, "torch": str(torch.__version__), "python": platform.python_version()}


def commit() -> str | None:
    """The commit of the checkout, with "+changes" if files differ from it.

    Outside a git checkout the value of the environment variable BENCHMARKS_COMMIT, or None.
    """
    named = os.environ.get("BENCHMARKS_COMMIT") or None
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return named
        head = _git("rev-parse", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return named


def hardware() -> dict[str, Any]:
    """The machine, with the instruction set that torch uses on it; on a cluster also the node."""
    import torch

    node = os.environ.get("BENCHMARKS_NODE")
    instructions = torch.backends.cpu.get_cpu_capability()  # on which the last bits of results depend
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "instructions": instructions,
    }
    return machine if node is None else {**machine, "node": node}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
