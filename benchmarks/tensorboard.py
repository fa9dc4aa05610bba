"""TensorBoard event files beside the record: ``tensorboard --logdir results`` shows all runs.

The event files are rewritten from the record whenever the run starts or continues. So they contain exactly what the
record contains, each step once, however often the run was interrupted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import experiments
from .errors import CannotRun
from .run import Run
from .training import Row

INSTALL = '--tensorboard needs the package tensorboard: pip install "torch-gnt[tensorboard]"'


def folder(run: Run) -> Path:
    """The folder of a run's event files, with a subfolder for each seed."""
    return run.path("tensorboard")


@contextmanager
def writer(run: Run) -> Iterator[Callable[[list[Row]], None]]:
    """A function that writes rows of ``run``: a scalar per metric, over the x of the experiment's pictures.

    Existing event files are first rewritten from the record.
    """
    make = summary_writer()
    x = experiments.display(run.experiment).x
    writers: dict[int, Any] = {}

    def write(rows: list[Row]) -> None:
        for row in rows:
            seed = int(row["seed"])
            if seed not in writers:
                writers[seed] = make(str(run.path("tensorboard", f"seed-{seed}")))
            for name, value in row.items():
                if name not in ("seed", x):
                    writers[seed].add_scalar(name, value, int(row[x]))
        for each in writers.values():
            each.flush()

    try:
        shutil.rmtree(folder(run), ignore_errors=True)
        write(run.rows_so_far())
        yield write
    finally:
        for each in writers.values():
            each.close()


def write_missing(runs: Iterable[Run]) -> None:
    """Write event files for finished runs that have none."""
    for run in runs:
        if run.finished and not folder(run).exists():
            with writer(run):
                pass


def summary_writer() -> Any:
    """The class SummaryWriter. Raises `CannotRun` if the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "tensorboard":
            raise
        raise CannotRun(INSTALL) from None
    return SummaryWriter
