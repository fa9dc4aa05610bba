"""One command's work: makes the runs of all methods with one choice of settings, then records and shows them
side by side.

<out>/<experiment>/<settings>/results.json and picture.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import experiments
from benchmarks.files import read_json, write_atomically, write_json
from benchmarks.palette import LABELS
from benchmarks.progress import Bars, Lines
from benchmarks.runner import make
from benchmarks.runs import Run
from benchmarks.settings import as_flags, changed, command_line, concerning, run_name

STOPPED = 130  # the exit status that shells use for Ctrl-C


class Comparison:
    """Methods side by side, with the same settings."""

    def __init__(self, experiment: str, settings: Any, methods: list[str], out: Path) -> None:
        self.experiment, self.settings, self.methods = experiment, settings, methods
        self.folder = out / experiment / run_name(experiment, settings, methods)
        self.runs = [Run(experiment, method, settings, out) for method in methods]
        self.command_line = command_line(experiment, settings, methods, out)

    def command(self, *, fresh: bool, quiet: bool, picture: Path | None, checkpoint_seconds: float) -> int:
        """Do all that is not done yet, and show the outcome. Returns the exit status."""
        console = Console(width=None if Console().is_terminal else 110)
        if fresh:
            for run in self.runs:
                run.forget()
        unfinished = [run for run in self.runs if not run.finished]
        if unfinished:
            console.print(self._introduction(), highlight=False)
            waiting = [run.method for run in unfinished]
            with Lines(console) if quiet or not console.is_terminal else Bars(console, waiting) as view:
                finished = make(unfinished, view, checkpoint_seconds)
            if not finished:
                console.print(f"Stopped. To go on from here: {self.command_line}", highlight=False, soft_wrap=True)
                return STOPPED
        else:
            console.print("Finished before; shown again (--fresh starts over).", highlight=False)
        self._record(again=bool(unfinished), picture=picture)
        self._show(console)
        return 0

    def _introduction(self) -> str:
        cls = type(self.settings)
        values = ", ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in concerning(self.settings, self.methods).items()
        )
        lines = [f"{self.experiment}: {values}"]
        if not changed(self.settings, self.methods):
            lines.append(
                f"These defaults are chosen to take {cls.time}; the published setting is {as_flags(cls.published)}."
            )
        lines.append("Ctrl-C stops; the same command goes on from there.")
        return "\n".join(lines)

    @property
    def _results(self) -> Path:
        return self.folder / "results.json"

    @property
    def _picture(self) -> Path:
        return self.folder / "picture.png"

    def _record(self, *, again: bool, picture: Path | None) -> None:
        report = experiments.report(self.experiment)
        if again or not self._results.exists():
            results = {run.method: run.result() for run in self.runs}
            content = {
                "experiment": self.experiment,
                "command": self.command_line,
                "settings": concerning(self.settings, self.methods),
                "figures": {method: result["figures"] for method, result in results.items()},
                "about": {method: result["about"] for method, result in results.items()},
            }
            write_json(self._results, content)
        figures = read_json(self._results)["figures"]
        for file in [self._picture, *([picture] if picture else [])]:
            write_atomically(file, lambda stream: report.picture(self.settings, figures, stream))

    def _show(self, console: Console) -> None:
        results = read_json(self._results)
        console.print(experiments.report(self.experiment).table(self.settings, results["figures"]))
        times = ", ".join(
            f"{LABELS[method]} {_duration(about['seconds'])}" for method, about in results["about"].items()
        )
        console.print(f"Time: {times}.\n{self._results}\n{self._picture}", highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
