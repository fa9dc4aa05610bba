"""Worker processes: what a fork of the process that has imported torch inherits, and what it does not."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.forkserver import _forkserver
from pathlib import Path
from typing import Any

import pytest

from benchmarks.launching import worker_processes
from tests.helpers.commands import until

pytestmark = pytest.mark.skipif(not worker_processes.HAS_FORK_SERVER, reason="without a fork server")


@pytest.fixture
def context() -> Iterator[Any]:
    """With a fork server of its own: one process has one, and other tests start it in other ways."""
    before = _forkserver._preload_modules
    _forkserver._stop()
    yield worker_processes.make_context()
    _forkserver._stop()
    _forkserver._preload_modules = before


def describe(answer: Connection, importing: list[str]) -> None:
    """What a worker finds when it begins."""
    server = Path(f"/proc/{os.getppid()}/task")
    answer.send(
        {
            "imported": [name for name in importing if name in sys.modules],
            "threads": (len(os.listdir("/proc/self/task")), len(list(server.iterdir()))),
            "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
            "pid": (os.getppid(), os.getpid()),
        }
    )


def found(context: Any) -> dict[str, Any]:
    """What `describe` says in a new worker."""
    ours, theirs = context.Pipe()
    process = worker_processes.start(context, describe, theirs, worker_processes.IMPORTED_BEFORE)
    theirs.close()
    answer: dict[str, Any] = ours.recv()
    process.join()
    assert process.exitcode == 0
    return answer


def test_a_worker_has_torch_and_only_its_own_thread(context: Any) -> None:
    answer = found(context)
    assert answer["imported"] == worker_processes.IMPORTED_BEFORE
    assert answer["threads"] == (1, 1)  # a fork copies no other threads, and locks they hold would stay locked


def test_ctrl_c_is_ignored_and_sigterm_ends_a_worker(context: Any) -> None:
    assert found(context)["signals"] == [signal.SIG_IGN, signal.SIG_DFL]


def test_the_command_keeps_its_signal_handlers_and_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    worker_processes.make_context()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


def test_workers_are_children_of_one_process_and_a_new_one_replaces_it_if_it_was_killed(context: Any) -> None:
    server, first = found(context)["pid"]
    again, second = found(context)["pid"]
    assert again == server
    assert first != second
    os.kill(server, signal.SIGTERM)  # as a cluster's scheduler sends it to all processes
    assert found(context)["pid"][0] == server
    os.kill(server, signal.SIGKILL)
    until(lambda: Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert found(context)["pid"][0] != server
