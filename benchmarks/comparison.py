"""A command's comparison: executes the runs it asks for, then shows the methods side by side."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from . import experiments
from .atomic_files import write_atomically
from .comparison_table import comparison_table
from .errors import STOPPED
from .launching import Launcher
from .picture_name import picture_name
from .progress import Title, progress_view
from .provenance import time_text
from .results_folder import inside
from .run import Run
from .run_plan import RunPlan
from .scheduler import run_all
from .settings import settings_text
from .summary import MethodResults, results_of, run_labels
from .task_pictures import ACCURACIES
from .worker import LOCK_SECONDS


class Comparison:
    """The runs of a plan and their results."""

    def __init__(self, plan: RunPlan, out: Path, command_line: str) -> None:
        self.plan, self.out, self.command_line = plan, out, command_line
        self.runs = plan.runs(out)
        self.display = experiments.display(plan.experiment)
        self._names = run_labels(self.runs)

    def execute(self, launcher: Launcher, *, fresh: bool, quiet: bool, picture: Path | None) -> int:
        """Execute the runs that are not finished, then print the table and write the picture. Returns the exit
        status.
        """
        began = time.monotonic()
        console = Console(width=None if Console().is_terminal else 110)
        own_picture = self._picture
        if fresh:
            self._delete_results()
        for run in self.runs:
            run.check_record()
        unfinished = [run for run in self.runs if not run.finished]
        if unfinished:
            console.print(self._settings_summary(), highlight=False, soft_wrap=True, markup=False)
            with progress_view(console, len(unfinished), quiet=quiet) as view:
                finished = run_all(unfinished, launcher, view, self._title, self.display.rows_text)
            if not finished:
                console.print(
                    f"Stopped. To continue: {self.command_line}", highlight=False, soft_wrap=True, markup=False
                )
                return STOPPED
        else:
            console.print("All runs were already finished (--fresh runs them again).", highlight=False)
        self._show(console, [own_picture, *([picture] if picture else [])], began)
        return 0

    def _delete_results(self) -> None:
        """Delete the results of all runs or, if another process is executing one of them, of none."""
        for run in self.runs:
            with run.lock(LOCK_SECONDS):
                pass
        for run in self.runs:
            run.delete_results(LOCK_SECONDS)

    def _title(self, run: Run) -> Title:
        first, last = run.seeds[0], run.seeds[-1]
        seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
        return Title(f"{self._names[run]}, {seeds}", run.colour)

    def _settings_summary(self) -> str:
        cls = type(self.runs[0].settings)
        common = self.runs[0].settings.affecting(self.runs[0].method, tuning=False)
        common = {name: value for name, value in common.items() if name not in self.plan.grid}
        texts = [f"{self.plan.experiment}: {settings_text(common)}"]
        if not self.plan.given and self.plan.size is None:
            size = cls.size_names()[0]
            time = f": {cls.durations[size]}" if size in cls.durations else ""
            others = ", ".join(f"--size {name}" for name in cls.size_names()[1:])
            texts.append(f"Size: {size}{time}. Other sizes: {others}.")
        texts.append("Ctrl-C stops; the same command continues.")
        return "\n".join(texts)

    def _show(self, console: Console, pictures: list[Path], began: float) -> None:
        from .comparison_picture import write_picture

        found = results_of(self.runs)
        console.print(comparison_table(found, self.display, console.width))
        texts = [f"{run.record.file.parent}: diverged: {run.diverged}" for run in self.runs if run.diverged]
        if any(result.complete_seeds for result in found):
            for file in pictures:
                write_atomically(file, lambda stream: write_picture(found, self.display, stream))
            texts += [*map(str, pictures), *map(str, self._further_pictures(found))]
        core, wall = sum(run.about()["seconds"] for run in self.runs), time.monotonic() - began
        times = f"{time_text(core)} of one core for all runs; {time_text(wall)} of wall time for this command"
        texts.append(f"Time: {times}. Records: {self.out / self.plan.experiment}")
        console.print("\n".join(texts), highlight=False, soft_wrap=True, markup=False)

    def _further_pictures(self, found: list[MethodResults]) -> list[Path]:
        """Write the further pictures of the experiment beside the main one."""
        from .plot_layout import save

        files = []
        shown = [result for result in found if result.has(ACCURACIES)]
        for further in self.display.further if shown else ():
            file = self._picture.with_stem(f"{self._picture.stem}_{further.name}")
            figure = further.draw(shown, self.display)
            write_atomically(inside(self.out, file), lambda stream, figure=figure: save(figure, stream))  # type: ignore[misc]
            files.append(file)
        return files

    @property
    def _picture(self) -> Path:
        return inside(self.out, self.out / self.plan.experiment / "pictures" / f"{picture_name(self.plan)}.png")
