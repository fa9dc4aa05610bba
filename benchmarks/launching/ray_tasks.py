"""What runs on the nodes of a Ray cluster: the task that executes a run, and the mailbox for its messages."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any

from ..run import Run

POLL_SECONDS = 0.3


class Mailbox:
    """An actor that stores messages until they are fetched."""

    def __init__(self) -> None:
        self._to_command: deque[tuple[str, Any]] = deque()
        self._to_run: dict[str, deque[Any]] = {}

    def put_for_command(self, name: str, message: Any) -> None:
        """Store a message from a run."""
        self._to_command.append((name, message))

    def take_for_command(self) -> list[tuple[str, Any]]:
        """All messages from runs, in order; they are removed."""
        taken = list(self._to_command)
        self._to_command.clear()
        return taken

    def put_for_run(self, name: str, message: Any) -> None:
        """Store a message for a run."""
        self._to_run.setdefault(name, deque()).append(message)

    def take_for_run(self, name: str) -> Any:
        """The next message for a run, which is removed; None if there is none."""
        waiting = self._to_run.get(name)
        return waiting.popleft() if waiting else None


class MailboxConnection:
    """A run's connection to its command through the mailbox; a `benchmarks.worker.Connection`."""

    def __init__(self, mailbox: Any, name: str) -> None:
        self._mailbox, self._name = mailbox, name
        self._polled = time.monotonic()
        self._received: deque[Any] = deque()

    def send(self, message: Any, /) -> None:
        """Send a message to the command. Returns when it is in the mailbox, so that none is lost when the process
        ends.
        """
        self._call(self._mailbox.put_for_command, message)

    def poll(self) -> bool:
        """Whether a message has arrived; asks the mailbox at most every ``POLL_SECONDS``."""
        if not self._received and time.monotonic() - self._polled > POLL_SECONDS:
            self._polled = time.monotonic()
            message = self._call(self._mailbox.take_for_run)
            if message is not None:
                self._received.append(message)
        return bool(self._received)

    def recv(self) -> Any:
        """The next message."""
        return self._received.popleft()

    def _call(self, method: Any, *arguments: Any) -> Any:
        import ray

        try:
            return ray.get(method.remote(self._name, *arguments))
        except ray.exceptions.RayError as error:  # the mailbox ends with the command
            raise OSError(str(error)) from error


def execute_run(run: Run, mailbox: Any, name: str, checkpoint_seconds: float, tensorboard: bool) -> None:
    """Execute the run on this node."""
    import ray

    from ..worker import run_worker

    os.environ["BENCHMARKS_NODE"] = ray.get_runtime_context().get_node_id()
    run_worker(run, MailboxConnection(mailbox, name), checkpoint_seconds, tensorboard)
