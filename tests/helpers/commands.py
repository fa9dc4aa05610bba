"""``python -m benchmarks`` as a person runs it: real processes, interrupted and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240  # seconds, for a machine that others use, too


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Begin the command, in a process group of its own."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **options.pop("environment", {})}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """Wait for its end. Returns what it printed, and its errors."""
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, (process.returncode, output, errors)
    return output, errors


def run(*arguments: object, status: int = 0, **options: Any) -> tuple[str, str]:
    """The whole command."""
    return finish(start(*arguments, **options), status)


def kill(process: subprocess.Popen[str]) -> None:
    """``kill -9``, command and workers at once: nobody can save anything."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)


def until(holds: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until it holds, for as long as the process lives."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def records(out: Path) -> dict[str, bytes]:
    """All records below a folder of results."""
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("record.jsonl"))}


def checkpoints(out: Path) -> dict[Path, int]:
    """All checkpoints, and when they were written."""
    found = {}
    for file in out.rglob("checkpoint.pt"):
        try:
            found[file] = file.stat().st_mtime_ns
        except FileNotFoundError:  # its run was finished just now
            continue
    return found


def table(output: str) -> str:
    """What a command shows in the end, but for the time it took."""
    return output[output.index("┏") : output.index("└")]
