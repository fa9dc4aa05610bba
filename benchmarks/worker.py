"""The process in which one run is made: trains, saves, reports, and stops when told to or when its command is
gone.

Messages to the command: ("progress", done, total, latest), ("rows", rows), and last one of ("finished",),
("diverged", why), ("stopped",), ("refused", message), ("failed", traceback). The only message from it is "stop".
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, Protocol

from benchmarks.errors import CannotRun
from benchmarks.run import Run

FINAL_MESSAGES = ("finished", "diverged", "stopped", "refused", "failed", "died")
REPORT_SECONDS = 0.2
LOCK_SECONDS = 10.0


class Connection(Protocol):
    """The way to the command: a pipe, or what looks like one. It raises OSError where the command is gone."""

    def send(self, message: Any, /) -> None:
        """Give a message to the command."""

    def poll(self) -> bool:
        """Whether a message is there."""

    def recv(self) -> Any:
        """The next message."""


def run_worker(run: Run, connection: Connection, checkpoint_seconds: float, tensorboard: bool) -> None:
    """Make the run, from its checkpoint when there is one, until it is finished or stopped."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the command says when to stop
    last: tuple[str, ...]
    try:
        with run.lock(wait=LOCK_SECONDS):
            last = ("finished",) if run.finished else _train(run, connection, checkpoint_seconds, tensorboard)
    except CannotRun as error:
        last = ("refused", str(error))
    except Exception:  # whatever it is, a person must see it, and only the command may print
        last = ("failed", traceback.format_exc())
    _send(connection, *last)


def _train(run: Run, connection: Connection, checkpoint_seconds: float, tensorboard: bool) -> tuple[str, ...]:
    """Train to the end, or until told to stop. Returns the last message."""
    import torch

    torch.set_num_threads(1)  # each run has a core of its own
    torch.set_flush_denormal(True)  # the moments of dead units decay into denormals, which are slow to compute with
    training = run.make_training()
    began = time.monotonic() - run.load(training)
    saved = time.monotonic()
    reported = 0.0
    with _tensorboard_writer(run, tensorboard) as write, _sigterm_received() as terminated:
        while training.done < training.total:
            try:
                rows = training.advance()
            except FloatingPointError as error:
                run.finish(time.monotonic() - began, diverged=str(error))
                return ("diverged", str(error))
            now = time.monotonic()
            if rows:
                run.record.add(rows)
                write(rows)
                _send(connection, "rows", rows)
            if now - reported > REPORT_SECONDS:
                _send(connection, "progress", training.done, training.total, training.latest)
                reported = now
            if terminated or _stop_requested(connection):
                run.save(training, now - began)
                return ("stopped",)
            if now - saved > checkpoint_seconds:
                run.save(training, now - began)
                saved = time.monotonic()
    _send(connection, "progress", training.done, training.total, training.latest)
    run.finish(time.monotonic() - began)
    return ("finished",)


@contextlib.contextmanager
def _sigterm_received() -> Iterator[list[int]]:
    """A plain kill fills the list instead of ending the process, so that the run is saved first: the schedulers of
    clusters send it to all processes of a training at once.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None: not set from Python


@contextlib.contextmanager
def _tensorboard_writer(run: Run, tensorboard: bool) -> Any:
    """What writes rows for TensorBoard, where that is wanted."""
    if not tensorboard:
        yield lambda rows: None
        return
    from benchmarks.tensorboard import writer

    with writer(run) as write:
        yield write


def _stop_requested(connection: Connection) -> bool:
    try:
        return connection.poll() and connection.recv() == "stop"
    except (EOFError, OSError):  # the command was killed
        return True


def _send(connection: Connection, *message: Any) -> None:
    with contextlib.suppress(OSError):  # the command was killed; _stop_requested sees it too
        connection.send(message)
