"""A run: one method with one choice of settings. It owns a folder, in which it is either unfinished or
finished.

    <out>/<experiment>/runs/<method>_<settings>/checkpoint.pt     while unfinished
    <out>/<experiment>/runs/<method>_<settings>/result.json       when finished

The folder's name holds a hash of all settings that concern the method, so runs with different settings never
meet, and a run of backprop is shared by all comparisons that it is part of.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.errors import CannotRun
from benchmarks.files import read_json, write_atomically, write_json
from benchmarks.job import Job
from benchmarks.settings import concerning, run_name


@dataclass(frozen=True)
class Run:
    """One method with one choice of settings, and its folder."""

    experiment: str
    method: str
    settings: Any
    out: Path

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        name = run_name(self.experiment, self.settings, [self.method])
        return self.out / self.experiment / "runs" / f"{self.method}_{name}"

    @property
    def finished(self) -> bool:
        """Whether there is a result."""
        return self._result.exists()

    @property
    def _result(self) -> Path:
        return self.folder / "result.json"

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def result(self) -> dict[str, Any]:
        """The result: ``figures``, and ``about`` with versions, commit, hardware and seconds."""
        result: dict[str, Any] = read_json(self._result)
        return result

    def forget(self) -> None:
        """Remove checkpoint and result, to start over."""
        self._checkpoint.unlink(missing_ok=True)
        self._result.unlink(missing_ok=True)

    @contextmanager
    def lock(self, wait: float) -> Iterator[None]:
        """Hold the run for this process. A worker whose command was killed lets go within moments: that long
        one waits.
        """
        from filelock import FileLock, Timeout  # torch itself depends on filelock

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock")
            lock.acquire(timeout=wait)
        except Timeout:
            raise CannotRun(
                f"Another process is making the run {self.folder}. Wait for it, or stop it and run this command again."
            ) from None
        except OSError as error:
            raise CannotRun(f"Cannot write to {self.folder}: {error}.") from error
        with lock:
            yield

    def save(self, job: Job, seconds: float) -> None:
        """Write the checkpoint."""
        import torch

        content = {"versions": provenance.versions(), "seconds": seconds, "job": job.state_dict()}
        write_atomically(self._checkpoint, lambda stream: torch.save(content, stream))

    def load(self, job: Job) -> float:
        """Bring ``job`` to the checkpoint, when there is one. Returns the seconds spent until then."""
        import torch

        if not self._checkpoint.exists():
            return 0.0
        try:
            content = torch.load(self._checkpoint, weights_only=True)
            begun, now = content["versions"], provenance.versions()
            if begun == now:
                job.load_state_dict(content["job"])
                return float(content["seconds"])
        except (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CannotRun(f"Cannot read {self._checkpoint} ({reason}). Use --fresh to start over.") from error
        then = ", ".join(f"{name} {begun.get(name)}" for name in now if begun.get(name) != now[name])
        here = ", ".join(f"{name} {now[name]}" for name in now if begun.get(name) != now[name])
        raise CannotRun(f"The run {self.folder} was begun with {then}; this is {here}. Use --fresh to start over.")

    def finish(self, job: Job, seconds: float) -> None:
        """Write the result; the checkpoint is no longer needed."""
        about = {
            "seconds": round(seconds, 1),
            "versions": provenance.versions(),
            "commit": provenance.commit(),
            "hardware": provenance.hardware(),
        }
        settings = concerning(self.settings, [self.method])
        write_json(self._result, {"settings": settings, "figures": job.figures, "about": about})
        self._checkpoint.unlink(missing_ok=True)
