"""Runs in processes of this machine, one each."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from benchmarks.run import Run
from benchmarks.worker import FINAL_MESSAGES, run_worker


class LocalLauncher:
    """Worker processes of this machine."""

    def __init__(self, workers: int | None, checkpoint_seconds: float, *, tensorboard: bool) -> None:
        self.slots = workers or _cores()
        self._options = (checkpoint_seconds, tensorboard)
        self._workers: dict[Run, _Worker] = {}

    def start(self, run: Run) -> None:
        """Begin to make the run."""
        self._workers[run] = _Worker(run, *self._options)

    def messages(self, timeout: float) -> list[tuple[Run, tuple[Any, ...]]]:
        """What came within ``timeout`` seconds."""
        pipes = {worker.pipe: worker for worker in self._workers.values()}
        heard = []
        for pipe in wait(list(pipes), timeout=timeout):
            worker = pipes[pipe]  # type: ignore[index]
            message = worker.receive()
            heard.append((worker.run, message))
            if message[0] in FINAL_MESSAGES:
                self._workers.pop(worker.run).end()
        return heard

    def request_stop(self, run: Run) -> None:
        """Ask a run to save and end."""
        self._workers[run].request_stop()

    def kill(self, run: Run) -> None:
        """End it now. Safe, as files are whole at any moment."""
        worker = self._workers.pop(run)
        worker.process.kill()
        worker.end()

    def close(self) -> None:
        """Nothing is held."""


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """One worker process and the pipe to it."""

    def __init__(self, run: Run, checkpoint_seconds: float, tensorboard: bool) -> None:
        self.run = run
        self.heard = False  # whether it is more than an interpreter that still imports
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self.pipe, theirs = context.Pipe()
        arguments = (run, theirs, checkpoint_seconds, tensorboard)
        self.process = context.Process(target=run_worker, args=arguments, daemon=True)
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
            return ("died", f"exit code {self.process.exitcode}")
        return message

    def request_stop(self) -> None:
        """Ask it to save and end. One that has not begun has nothing to save."""
        if not self.heard:
            self.process.terminate()
        with suppress(OSError):  # it has ended; its last words are still to be read
            self.pipe.send("stop")

    def end(self) -> None:
        """Wait for its end, after its last message."""
        self.pipe.close()
        self.process.join()
