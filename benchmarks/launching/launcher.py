"""The interface of launchers: where and how runs are executed."""

from __future__ import annotations

from typing import Any, Protocol

from ..run import Run


class Launcher(Protocol):
    """Starts runs elsewhere and receives their messages, which are listed in `benchmarks.worker`."""

    slots: int
    """Number of runs executed at the same time."""

    def start(self, run: Run) -> None:
        """Start the run."""

    def messages(self, timeout: float) -> list[tuple[Run, tuple[Any, ...]]]:
        """Messages that arrived within ``timeout`` seconds, in order for each run.

        Nothing follows a run's final message. ("died", reason) is the final message of a run whose process ended
        without one.
        """

    def request_stop(self, run: Run) -> None:
        """Ask a run to save and stop. One that has not started training may stop at once."""

    def kill(self, run: Run) -> None:
        """End the run immediately; its last checkpoint stays."""

    def close(self) -> None:
        """Release resources. All runs have ended."""
