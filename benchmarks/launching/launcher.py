"""The interface of launchers: where and how runs are executed."""

from __future__ import annotations

from typing import Any, Protocol

from benchmarks.run import Run


class Launcher(Protocol):
    """Starts runs elsewhere and hears from them. `benchmarks.worker` says which messages there are."""

    slots: int
    """How many runs are made at once."""

    def start(self, run: Run) -> None:
        """Begin to make the run."""

    def messages(self, timeout: float) -> list[tuple[Run, tuple[Any, ...]]]:
        """What came within ``timeout`` seconds, in the order of each run. After a run's last message nothing more comes
        from it; ("died", reason) is the last of one that could not say so itself.
        """

    def request_stop(self, run: Run) -> None:
        """Ask a run to save and end. One that has not begun yet may end at once."""

    def kill(self, run: Run) -> None:
        """End it now; its last checkpoint stays."""

    def close(self) -> None:
        """Give back what is held. All runs have ended."""
