"""The process that executes one run: trains, saves checkpoints, reports, and stops on request or when the command that
started it is gone.

Messages to the command: ("progress", done, total, latest), ("rows", rows), and finally one of ("finished",),
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

from .errors import CannotRun
from .run import Run

FINAL_MESSAGES = ("finished", "diverged", "stopped", "refused", "failed", "died")
REPORT_SECONDS = 0.2
LOCK_SECONDS = 10.0


class Connection(Protocol):
    """The connection to the command: a pipe or a similar object. It raises OSError if the command is gone."""

    def send(self, message: Any, /) -> None:
        """Send a message to the command."""

    def poll(self) -> bool:
        """Whether a message has arrived."""

    def recv(self) -> Any:
        """The next message."""


def run_worker(run: Run, connection: Connection, checkpoint_seconds: float, tensorboard: bool) -> None:
    """Execute the run, from its checkpoint if there is one, until it is finished or stopped."""
    if threading.current_thread() is threading.main_thread():
        # Ctrl-C reaches all processes of a terminal; only the command handles it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    last: tuple[str, ...]
    try:
        with run.lock(wait=LOCK_SECONDS):
            last = ("finished",) if run.finished else _train(run, connection, checkpoint_seconds, tensorboard)
    except CannotRun as error:
        last = ("refused", str(error))
    except Exception:  # only the command prints
        last = ("failed", traceback.format_exc())
    _send(connection, *last)


def _train(run: Run, connection: Connection, checkpoint_seconds: float, tensorboard: bool) -> tuple[str, ...]:
    """Train until finished or stopped. Returns the final message."""
    import torch

    torch.set_num_threads(1)  # one core per run
    torch.set_flush_denormal(True)  # Adam's moments of dead units decay into denormal numbers, which are slow
    training = run.make_training()
    before = run.load(training)
    began = time.process_time(), time.monotonic()

    def times() -> tuple[float, float]:
        """Core time, which is not what other processes take, and wall time."""
        return before[0] + time.process_time() - began[0], before[1] + time.monotonic() - began[1]

    saved = time.monotonic()
    reported = 0.0
    with _tensorboard_writer(run, tensorboard) as write, _sigterm_received() as terminated:
        while training.done < training.total:
            try:
                rows = training.advance()
            except FloatingPointError as error:
                run.finish(*times(), diverged=str(error), diverged_seeds=getattr(error, "seeds", list(run.seeds)))
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
                run.save(training, *times())
                return ("stopped",)
            if now - saved > checkpoint_seconds:
                run.save(training, *times())
                saved = time.monotonic()
    _send(connection, "progress", training.done, training.total, training.latest)
    spent = times()
    run.save(training, *spent)  # the check may take long, and be stopped
    verdicts = training.plasticity()
    if verdicts:
        run.finish(*spent, plasticity=verdicts)
    else:
        run.finish(*spent)
    return ("finished",)


@contextlib.contextmanager
def _sigterm_received() -> Iterator[list[int]]:
    """A list that SIGTERM is recorded in, instead of ending the process, so that the run is saved first. Schedulers of
    clusters send SIGTERM to all processes of a job at once.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None: the previous handler was not set from Python


@contextlib.contextmanager
def _tensorboard_writer(run: Run, tensorboard: bool) -> Any:
    """A function that writes rows to TensorBoard files, or does nothing."""
    if not tensorboard:
        yield lambda rows: None
        return
    from .tensorboard import writer

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
