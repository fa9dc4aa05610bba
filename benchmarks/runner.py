"""Makes runs side by side, one worker process each, and shows how they get on until all are finished or one
is told to stop.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

from benchmarks.errors import CannotRun
from benchmarks.progress import View
from benchmarks.runs import Run
from benchmarks.worker import work

STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.2


class _Worker:
    """One worker process and the pipe to it."""

    def __init__(self, run: Run, checkpoint_seconds: float) -> None:
        self.run = run
        self.heard = False  # whether it is more than an interpreter that still imports
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(run, theirs, checkpoint_seconds), daemon=True)
        # What is ignored at its start stays ignored in the worker, also while it is still importing.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        theirs.close()  # so that the worker's end is the only one, and its death closes the pipe

    def receive(self) -> tuple[Any, ...]:
        """Its next message; its death is one too."""
        self.heard = True
        try:
            message: tuple[Any, ...] = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return ("died", self.process.exitcode)
        return message

    def tell_to_stop(self) -> None:
        """Ask it to save and end. One that has not begun has nothing to save."""
        if not self.heard:
            self.process.terminate()
        with suppress(OSError):  # it has ended; its last words are still to be read
            self.pipe.send("stop")

    def end(self) -> None:
        """Wait for its end, after its last message."""
        self.pipe.close()
        self.process.join()


class _Crew:
    """All workers of a command."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.workers: list[_Worker] = []
        self.troubles: list[str] = []
        self.stopping = False

    def listen(self) -> None:
        """Wait a moment for messages, and show them."""
        ready = wait([worker.pipe for worker in self.workers], timeout=_LOOK_SECONDS)
        for worker in [worker for worker in self.workers if worker.pipe in ready]:
            if self._take(worker.run.method, worker.receive()):
                worker.end()
                self.workers.remove(worker)

    def stop(self) -> None:
        """Let all save and end; end those that do not."""
        self.stopping = True
        for worker in self.workers:
            worker.tell_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        while self.workers and time.monotonic() < deadline:
            self.listen()
        for worker in self.workers:  # safe, as files are whole at any moment; the last checkpoint stays
            worker.process.kill()
            worker.end()

    def _take(self, method: str, message: tuple[Any, ...]) -> bool:
        """Show a message; returns whether it was the worker's last."""
        match message:
            case ("progress", done, total, latest):
                self.view.progress(method, done, total, latest)
                return False
            case ("line", text):
                self.view.line(method, text)
                return False
            case ("refused", text):
                self.troubles.append(text)
            case ("failed", text):
                self.troubles.append(f"The run of {method} failed:\n{text}")
            case ("died", code) if not self.stopping:
                self.troubles.append(
                    f"The process of {method} was killed (exit code {code}). "
                    "Run the same command again to go on from the last checkpoint."
                )
        return True


def make(runs: list[Run], view: View, checkpoint_seconds: float) -> bool:
    """Make the runs. Returns whether all were finished; False when a person stopped them.

    Raises:
        CannotRun: a worker refused or failed. The others have been stopped, their checkpoints kept.
    """
    crew = _Crew(view)
    with _interruptible() as interrupted:
        try:
            for run in runs:
                crew.workers.append(_Worker(run, checkpoint_seconds))
            while crew.workers and not interrupted and not crew.troubles:
                crew.listen()
        finally:
            crew.stop()
    if crew.troubles:
        raise CannotRun("\n".join(dict.fromkeys(crew.troubles)))  # two workers often have the same to say
    return all(run.finished for run in runs)


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Ctrl-C and a plain kill fill the list instead of raising, so that nothing is interrupted half-way."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
