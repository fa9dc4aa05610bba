"""Executes runs in processes of this machine, one process per run."""

from __future__ import annotations

import os
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from ..run import Run
from ..worker import FINAL_MESSAGES, run_worker
from . import worker_processes


class LocalLauncher:
    """Executes runs in worker processes of this machine."""

    def __init__(self, workers: int | None, checkpoint_seconds: float, *, tensorboard: bool) -> None:
        self.slots = workers or _cores()
        self._context = worker_processes.make_context()
        self._options = (checkpoint_seconds, tensorboard)
        self._workers: dict[Run, _Worker] = {}

    def start(self, run: Run) -> None:
        """Start the run."""
        self._workers[run] = _Worker(self._context, run, *self._options)

    def messages(self, timeout: float) -> list[tuple[Run, tuple[Any, ...]]]:
        """Messages that arrived within ``timeout`` seconds."""
        pipes = {worker.pipe: worker for worker in self._workers.values()}
        received = []
        for pipe in wait(list(pipes), timeout=timeout):
            worker = pipes[pipe]
            message = worker.receive()
            received.append((worker.run, message))
            if message[0] in FINAL_MESSAGES:
                self._workers.pop(worker.run).end()
        return received

    def request_stop(self, run: Run) -> None:
        """Ask the run to save and stop."""
        self._workers[run].request_stop()

    def kill(self, run: Run) -> None:
        """End the run immediately. Its files are consistent at any moment."""
        worker = self._workers.pop(run)
        worker.process.kill()
        worker.end()

    def close(self) -> None:
        """Nothing to release."""


def _cores() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A worker process and the pipe to it."""

    def __init__(self, context: Any, run: Run, checkpoint_seconds: float, tensorboard: bool) -> None:
        self.run = run
        self.started = False  # whether it has sent a message; before, it has not trained
        self.pipe, worker_end = context.Pipe()
        arguments = (run, worker_end, checkpoint_seconds, tensorboard)
        self.process = worker_processes.start(context, run_worker, *arguments)
        worker_end.close()  # only the worker holds its end, so that the pipe is closed when the worker dies

    def receive(self) -> tuple[Any, ...]:
        """Its next message; ("died", ...) if the process has ended."""
        self.started = True
        try:
            message: tuple[Any, ...] = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return ("died", f"exit code {self.process.exitcode}")
        return message

    def request_stop(self) -> None:
        """Ask the process to save and stop. One that has not trained is terminated."""
        if not self.started:
            self.process.terminate()
        with suppress(OSError):  # it has ended; its final message can still be read
            self.pipe.send("stop")

    def end(self) -> None:
        """Wait for the process to end, after its final message."""
        self.pipe.close()
        self.process.join()
