"""A run: one method with one choice of settings and seeds, and the folder of its results.

    <out>/<experiment>/<method>_<settings>/seed-0/record.jsonl     the rows, appended; the last line is an end
    <out>/<experiment>/<method>_<settings>/seed-0/checkpoint.pt    while unfinished
    <out>/<experiment>/<method>_<settings>/seed-0/about.json       when finished: versions, commit, hardware, seconds

The folder's name contains a hash of all settings that affect the method. So runs with different settings never share a
folder, and a run of backprop is shared by all comparisons that include it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import checkpoint, experiments, provenance
from .atomic_files import read_json, remove_temporary_files, write_atomically, write_json
from .errors import START_OVER_HINT, CannotRun
from .method_styles import COLOURS
from .plasticity import Verdicts
from .provenance import ABOUT
from .record import Record
from .record_rows import check_end, check_rows, check_same_rows, damaged
from .results_folder import inside
from .saved_values import shown
from .settings import BaseSettings
from .training import Row, Training


@dataclass(frozen=True)
class Run:
    """One method with one choice of settings and one seed, or several seeds that are trained together."""

    experiment: str
    method: str
    settings: BaseSettings
    seeds: tuple[int, ...]
    out: Path

    @property
    def folder(self) -> Path:
        """The folder of its results."""
        first, last = self.seeds[0], self.seeds[-1]
        seeds = f"seed-{first}" if first == last else f"seeds-{first}-to-{last}"
        home, name = self.out / self.experiment, self.settings.folder_name(self.experiment, self.method)
        if not (home / name).exists():  # the defaults may have changed since; the hash identifies the run
            digest = name.rpartition("_")[2]
            name = next((folder.name for folder in sorted(home.glob(f"{self.method}_*_{digest}"))), name)
        return home / name / seeds

    def path(self, *names: str) -> Path:
        """A file or folder in its folder. Raises `CannotRun` if a symbolic link leads to another place."""
        return inside(self.out, self.folder.joinpath(*names))

    def check_links(self) -> None:
        """Raise `CannotRun` if one of its files is a symbolic link, or lies behind one."""
        for name in ("lock", "record.jsonl", "checkpoint.pt", "about.json"):
            self.path(name)

    @property
    def colour(self) -> str:
        """The colour of its method."""
        return COLOURS[self.method]

    @property
    def finished(self) -> bool:
        """Whether its record is complete."""
        return self.record.ended

    @property
    def record(self) -> Record:
        """The file of its rows."""
        return Record(self.path("record.jsonl"))

    @property
    def head(self) -> dict[str, Any]:
        """The first line of its record: what the run is."""
        return {
            "experiment": self.experiment,
            "revision": self.settings.revision,
            "method": self.method,
            "settings": self.settings.affecting(self.method),
            "seeds": list(self.seeds),
        }

    @property
    def _checkpoint(self) -> Path:
        return self.path("checkpoint.pt")

    @property
    def _about(self) -> Path:
        return self.path("about.json")

    def about(self) -> dict[str, Any]:
        """Versions, commit, hardware, and seconds of core time and wall time of a finished run."""
        about: dict[str, Any] = read_json(self._about, ABOUT)
        return about

    def delete_results(self, wait: float = 0.0) -> None:
        """Delete its results, to start over. Refused while another process executes the run (see `lock`)."""
        with self.lock(wait):
            try:
                for file in (self._checkpoint, self.record.file, self._about):
                    file.unlink(missing_ok=True)
            except OSError as error:
                raise CannotRun(f"Cannot start over in {self.folder}: {error}.") from error

    @contextmanager
    def lock(self, wait: float) -> Iterator[None]:
        """Hold the run's lock. ``wait``: seconds to wait for another process, such as a worker whose command was
        killed.
        """
        from filelock import FileLock, Timeout  # torch itself depends on filelock

        try:
            self.check_links()
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path("lock"))
            lock.acquire(timeout=wait)
        except Timeout:
            raise CannotRun(
                f"Another process is executing the run {self.folder}. Wait for it, or stop it and run this command "
                "again."
            ) from None
        except OSError as error:
            raise CannotRun(f"Cannot write to {self.folder}: {error}.") from error
        with lock:
            self._remove_temporary_files()
            yield

    def _remove_temporary_files(self) -> None:
        """Remove what a process that was killed while it wrote a file has left."""
        for file in (self._checkpoint, self._about):
            remove_temporary_files(file)

    def make_training(self) -> Training:
        """Its training loop, from the start."""
        training: Training = experiments.training_class(self.experiment)(self.settings, self.method, list(self.seeds))
        return training

    def save(self, training: Training, seconds: float, wall_seconds: float) -> None:
        """Write a checkpoint, which includes the size of the record at this point."""
        import torch

        content = {
            "versions": provenance.versions(),
            "seconds": seconds,
            "wall_seconds": wall_seconds,
            "record": self.record.size,
            "job": training.state_dict(),
        }
        write_atomically(self._checkpoint, lambda stream: torch.save(content, stream))

    def load(self, training: Training) -> tuple[float, float]:
        """Restore ``training`` and the record to the checkpoint, or to the start if there is none. Returns the seconds
        of core time and of wall time spent until then.
        """
        self.check_record()
        if not self._checkpoint.exists():
            if self.record.has_end:
                raise CannotRun(f"{self.record.file} is damaged: its end is not the last line. {START_OVER_HINT}")
            self.record.begin(self.head)
            return 0.0, 0.0
        content = checkpoint.read(self._checkpoint)
        begun, now = content["versions"], provenance.versions()
        differing = [name for name in {**now, **begun} if begun.get(name) != now.get(name)]
        if differing:
            then, here = (", ".join(f"{name} {each.get(name)}" for name in differing) for each in (begun, now))
            raise CannotRun(f"The run {self.folder} was started with {then}; this is {here}. {START_OVER_HINT}")
        self.rows_so_far(content["record"])
        with checkpoint.reading(self._checkpoint):
            training.load_state_dict(content["job"])
        self.record.cut(content["record"])
        return float(content["seconds"]), float(content.get("wall_seconds", content["seconds"]))

    def finish(self, seconds: float, wall_seconds: float | None = None, **more: Any) -> None:
        """Write about.json and the end of the record, with ``more`` (see `Record.end`), and delete the checkpoint."""
        about = {
            "seconds": round(seconds, 1),
            **({} if wall_seconds is None else {"wall_seconds": round(wall_seconds, 1)}),
            "versions": provenance.versions(),
            "commit": provenance.commit(),
            "hardware": provenance.hardware(),
        }
        write_json(self._about, about)
        self.record.end(**more)
        self._checkpoint.unlink(missing_ok=True)

    def rows(self) -> list[Row]:
        """The rows of a finished run."""
        self.check_record()
        _, *rows, end = self.record.lines()
        display = experiments.display(self.experiment)
        with damaged(self.record.file):
            check_end(end, len(rows))
        with damaged(self.record.file, f"its end counts {len(rows)} rows, and "):
            check_rows(rows, self.seeds, display)
            if "diverged" not in end:
                check_same_rows(rows, self.seeds, display)
        return rows

    def rows_so_far(self, size: int | None = None) -> list[Row]:
        """The rows of a run that may be unfinished; ``size``: only those in the first ``size`` bytes of the record."""
        lines = self.record.lines(size)[1:]
        rows = [line for line in lines if not (isinstance(line, dict) and "end" in line)]
        with damaged(self.record.file):
            check_rows(rows, self.seeds, experiments.display(self.experiment))
        return rows

    @property
    def diverged(self) -> str | None:
        """Why a finished run ended early; None if it did not."""
        return self._end().get("diverged")

    @property
    def diverged_seeds(self) -> tuple[int, ...]:
        """The seeds with which a finished run ended early. Others of the run were stopped with them; all, if it is not
        known which.
        """
        end = self._end()
        return tuple(end.get("diverged_seeds") or self.seeds) if "diverged" in end else ()

    def _end(self) -> dict[str, Any]:
        end: dict[str, Any] = self.record.lines()[-1]
        with damaged(self.record.file):
            check_end(end)
        return end

    @property
    def plasticity(self) -> Verdicts:
        """What the plasticity check said of each seed of a finished run; empty if it was not checked."""
        end = self.record.lines()[-1]
        with damaged(self.record.file):
            check_end(end)
        return end.get("plasticity", {})  # type: ignore[no-any-return]

    def check_record(self) -> None:
        """Raise `CannotRun` if the record belongs to another run or to other settings, or if a file of the run is a
        symbolic link. Changes nothing.
        """
        self.check_links()
        head = self.record.head()
        if head is None:
            return
        differing = [name for name, value in self.head.items() if head.get(name) != value]
        if differing:
            name = differing[0]
            raise CannotRun(
                f"{self.record.file} has {name} {shown(head.get(name), 300)}, but this run has {self.head[name]}: "
                f"it was written by another version of the settings. {START_OVER_HINT}"
            )
