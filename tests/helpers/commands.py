"""Runs ``python -m benchmarks`` in processes that tests can interrupt and kill, or in this one."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cli import main

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 240  # seconds; generous, for machines with other load


def command_environment() -> dict[str, str]:
    """Environment of the commands: one thread per process, and bytecode, so that imports are four times as fast."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"OMP_NUM_THREADS": "1", **inherited}


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the command in a process group of its own, which SIGINT interrupts even if it is ignored here.

    ``environment``: additional environment variables. ``preexec_fn``: called in the new process before the command.
    """
    before: Callable[[], None] | None = options.pop("preexec_fn", None)

    def prepare() -> None:
        # a shell without job control starts background jobs that ignore SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if before is not None:
            before()

    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        env=command_environment() | options.pop("environment", {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
        **options,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """Wait for the process to end, and check its status. Returns its output and its errors."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        kill(process)  # its workers, too, or they would slow down all other tests
        raise
    assert process.returncode == status, (process.returncode, output, errors)
    return output, errors


def run(*arguments: object, status: int = 0, **options: Any) -> tuple[str, str]:
    """Run the command to its end. Returns its output and its errors."""
    return finish(start(*arguments, **options), status)


def run_here(*arguments: object, status: int = 0) -> tuple[str, str]:
    """Run the command in this process, which saves the imports of a new one; its workers are processes of their own.

    Returns its output and its errors.
    """
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        actual = main([*map(str, arguments)])
    assert actual == status, (actual, output.getvalue(), errors.getvalue())
    return output.getvalue(), errors.getvalue()


def kill(process: subprocess.Popen[str]) -> None:
    """Kill the command and its workers with SIGKILL, so that none of them can save anything."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT)


def until(holds: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until ``holds()``; fails if the process ends before."""
    deadline = time.monotonic() + TIMEOUT
    while not holds():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def records(out: Path) -> dict[str, bytes]:
    """The content of all records below a folder of results."""
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("record.jsonl"))}


def checkpoints(out: Path) -> dict[Path, int]:
    """The modification times of all checkpoints."""
    found = {}
    for file in out.rglob("checkpoint.pt"):
        try:
            found[file] = file.stat().st_mtime_ns
        except FileNotFoundError:  # deleted because its run has just finished
            continue
    return found


def table(output: str) -> str:
    """The table in a command's output."""
    return output[output.index("┏") : output.index("└")]
