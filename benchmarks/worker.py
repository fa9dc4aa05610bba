"""The process in which one run is made: trains, saves, reports, and stops when told to or when its command is
gone.

Messages to the command: ("progress", done, total, latest), ("line", text), and last one of ("finished",),
("stopped",), ("refused", message), ("failed", traceback). The only message from it is "stop".
"""

from __future__ import annotations

import contextlib
import signal
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.errors import CannotRun
from benchmarks.runs import Run

REPORT_SECONDS = 0.2
LOCK_SECONDS = 10.0


def work(run: Run, connection: Connection, checkpoint_seconds: float) -> None:
    """Make the run, from its checkpoint when there is one, until it is finished or stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the command says when to stop
    last: tuple[str, ...]
    try:
        with run.lock(wait=LOCK_SECONDS):
            last = ("finished",) if _train(run, connection, checkpoint_seconds) else ("stopped",)
    except CannotRun as error:
        last = ("refused", str(error))
    except FloatingPointError as error:
        last = ("refused", f"The run of {run.method} cannot go on: {error}.")
    except Exception:  # whatever it is, a person must see it, and only the command may print
        last = ("failed", traceback.format_exc())
    _send(connection, *last)


def _train(run: Run, connection: Connection, checkpoint_seconds: float) -> bool:
    """Whether the run was finished; False when it was told to stop before."""
    import torch

    from benchmarks.experiments import job_class

    torch.set_num_threads(1)  # each method has a core of its own
    torch.set_flush_denormal(True)  # the moments of dead units decay into denormals, which are slow to compute with
    job = job_class(run.experiment)(run.settings, run.method)
    began = time.monotonic() - run.load(job)
    saved = time.monotonic()
    reported = 0.0
    while job.done < job.total:
        line = job.advance()
        now = time.monotonic()
        if line:
            _send(connection, "line", line)
        if now - reported > REPORT_SECONDS:
            _send(connection, "progress", job.done, job.total, job.latest)
            reported = now
        if _told_to_stop(connection):
            run.save(job, now - began)
            return False
        if now - saved > checkpoint_seconds:
            run.save(job, now - began)
            saved = time.monotonic()
    _send(connection, "progress", job.done, job.total, job.latest)
    run.finish(job, time.monotonic() - began)
    return True


def _told_to_stop(connection: Connection) -> bool:
    try:
        return connection.poll() and connection.recv() == "stop"
    except (EOFError, OSError):  # the command was killed
        return True


def _send(connection: Connection, *message: Any) -> None:
    with contextlib.suppress(OSError):  # the command was killed; _told_to_stop sees it too
        connection.send(message)
