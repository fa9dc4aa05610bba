"""Rows for TensorBoard, beside the record: ``tensorboard --logdir results`` shows all runs.

The event files are written anew from the record whenever the run is begun or goes on, so that they hold just what the
record holds, each step once, however often the run was killed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import experiments
from benchmarks.errors import CannotRun
from benchmarks.run import Run
from benchmarks.training import Row

INSTALL = '--tensorboard needs the package tensorboard: pip install "torch-gnt[tensorboard]"'


def folder(run: Run) -> Path:
    """Where the event files of a run are: a folder for each seed."""
    return run.folder / "tensorboard"


@contextmanager
def writer(run: Run) -> Iterator[Callable[[list[Row]], None]]:
    """What writes rows of ``run``, whose record is as it was when it was last saved: a scalar for each figure, over
    what the experiment's pictures have for x.
    """
    make = summary_writer()
    x = experiments.display(run.experiment).x
    writers: dict[int, Any] = {}

    def write(rows: list[Row]) -> None:
        for row in rows:
            seed = int(row["seed"])
            if seed not in writers:
                writers[seed] = make(str(folder(run) / f"seed-{seed}"))
            for name, value in row.items():
                if name not in ("seed", x):
                    writers[seed].add_scalar(name, value, int(row[x]))
        for each in writers.values():
            each.flush()

    try:
        shutil.rmtree(folder(run), ignore_errors=True)
        write([line for line in run.record.lines() if "seed" in line])  # neither head nor end
        yield write
    finally:
        for each in writers.values():
            each.close()


def write_missing(runs: Iterable[Run]) -> None:
    """Write what is missing for finished runs: they may have been made without."""
    for run in runs:
        if run.finished and not folder(run).exists():
            with writer(run):
                pass


def summary_writer() -> Any:
    """The class of the package, or what installs it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "tensorboard":
            raise
        raise CannotRun(INSTALL) from None
    return SummaryWriter
