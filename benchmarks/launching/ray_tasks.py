"""What runs on the nodes of a Ray cluster: the task that makes a run, and the mailbox between it and its command."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any

from benchmarks.run import Run

ASK_SECONDS = 0.3


class Mailbox:
    """An actor that keeps messages until they are taken."""

    def __init__(self) -> None:
        self._to_command: deque[tuple[str, Any]] = deque()
        self._to_run: dict[str, deque[Any]] = {}

    def put_for_command(self, name: str, message: Any) -> None:
        """From a run."""
        self._to_command.append((name, message))

    def take_for_command(self) -> list[tuple[str, Any]]:
        """To the command: all that came, in order."""
        taken = list(self._to_command)
        self._to_command.clear()
        return taken

    def put_for_run(self, name: str, message: Any) -> None:
        """From the command."""
        self._to_run.setdefault(name, deque()).append(message)

    def take_for_run(self, name: str) -> Any:
        """To a run: the next message, None where there is none."""
        waiting = self._to_run.get(name)
        return waiting.popleft() if waiting else None


class MailboxConnection:
    """A run's way to its command: a `benchmarks.worker.Connection` by way of the mailbox."""

    def __init__(self, mailbox: Any, name: str) -> None:
        self._mailbox, self._name = mailbox, name
        self._asked = time.monotonic()
        self._heard: deque[Any] = deque()

    def send(self, message: Any, /) -> None:
        """Give a message to the command; returns when it is in the mailbox, so that none is lost at the end."""
        self._call(self._mailbox.put_for_command, message)

    def poll(self) -> bool:
        """Whether a message is there; asks now and then."""
        if not self._heard and time.monotonic() - self._asked > ASK_SECONDS:
            self._asked = time.monotonic()
            message = self._call(self._mailbox.take_for_run)
            if message is not None:
                self._heard.append(message)
        return bool(self._heard)

    def recv(self) -> Any:
        """The next message."""
        return self._heard.popleft()

    def _call(self, method: Any, *arguments: Any) -> Any:
        import ray

        try:
            return ray.get(method.remote(self._name, *arguments))
        except ray.exceptions.RayError as error:  # the command is gone, and the mailbox with it
            raise OSError(str(error)) from error


def execute_run(run: Run, mailbox: Any, name: str, checkpoint_seconds: float, tensorboard: bool) -> None:
    """Make the run here."""
    import ray

    from benchmarks.worker import run_worker

    os.environ["BENCHMARKS_NODE"] = ray.get_runtime_context().get_node_id()
    run_worker(run, MailboxConnection(mailbox, name), checkpoint_seconds, tensorboard)
