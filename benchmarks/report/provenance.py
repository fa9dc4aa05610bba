"""Provenance of each row: command, commit, seeds, hardware and time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..method_styles import LABELS
from ..provenance import time_text
from ..run import Run
from ..summary import MethodResults
from .markdown import collapsible
from .problems import Family, Problem
from .rerun_commands import NONE, commands, one_command


def provenance_lines(part: Problem | Family) -> list[str]:
    """A collapsible list with an item for each row, or one for all rows that a single command produces."""
    items = []
    if isinstance(part, Family):
        for method in dict.fromkeys(result.method for result in part.results):
            own = [result for result in part.results if result.method == method]
            whole = one_command([run for result in own for run in result.counted_runs])
            items += (
                [_item(LABELS[method], own, [whole])]
                if whole
                else [_result_item(part.name(result), result) for result in own]
            )
    else:
        items = [_result_item(result.label, result) for result in part.results]
    command = one_command([run for result in part.results for run in result.counted_runs])
    texts = [f"All in one command: `{command}`", ""] if command and len(items) > 1 else []
    return collapsible("Provenance: command, commit, seeds, hardware, time", [*texts, *items])


def _result_item(label: str, result: MethodResults) -> str:
    return _item(label, [result], commands(result.counted_runs))


def _item(label: str, results: Sequence[MethodResults], made_by: Sequence[str]) -> str:
    runs = [run for result in results for run in result.counted_runs]
    seeds = sorted({seed for result in results for seed in result.run_by_seed})
    texts = [
        f"- **{label}**, {seed_list(seeds)}",
        *(f"`{text}`" if text != NONE else text for text in made_by),
        *run_provenance(runs),
    ]
    return "; ".join(texts)


def seed_list(seeds: Sequence[int]) -> str:
    """Seeds as text.

    >>> seed_list([3]), seed_list([0, 1, 2]), seed_list([0, 2])
    ('seed 3', 'seeds 0 to 2', 'seeds 0, 2')
    """
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"


def run_provenance(runs: Sequence[Run]) -> list[str]:
    """Commit, hardware, versions, core time of all runs, and wall time of the longest one if it was measured."""
    every = [run.about() for run in runs]
    commits = dict.fromkeys(_commit(about["commit"]) for about in every)
    machines = dict.fromkeys(_machine(about["hardware"]) for about in every)
    versions = dict.fromkeys(_versions(about["versions"]) for about in every)
    seconds = sum(float(about["seconds"]) for about in every)
    walls = [float(about["wall_seconds"]) for about in every if "wall_seconds" in about]
    longest = f" in sum, at most {time_text(max(walls))} of wall time a run" if len(walls) == len(every) else ""
    return [f"commit {', '.join(commits)}", ", ".join(machines), ", ".join(versions), duration(seconds) + longest]


def _commit(commit: str | None) -> str:
    if commit is None:
        return "unknown"
    name, plus, _ = commit.partition("+")
    return f"`{name[:10]}`" + (" with changes" if plus else "")


def _machine(hardware: dict[str, Any]) -> str:
    cores = f", {hardware['cores']} cores" if hardware.get("cores") else ""
    instructions = f", {hardware['instructions']}" if hardware.get("instructions") else ""
    return f"{hardware.get('processor', 'unknown hardware')}{cores}{instructions}"


def _versions(versions: dict[str, Any]) -> str:
    return " ".join(f"{name} {version}" for name, version in versions.items())


def duration(seconds: float) -> str:
    """Core time as text.

    >>> duration(12.4), duration(400), duration(9000)
    ('12 s of one core', '6.7 min of one core', '2.5 h of one core')
    """
    return f"{time_text(seconds)} of one core"


def repeated_seeds(results: Sequence[MethodResults]) -> list[str]:
    """A sentence for each seed that several runs of the same settings have: which run counts."""
    texts = []
    for result in results:
        for run in result.runs:
            passed = [seed for seed in run.seeds if result.run_by_seed[seed] is not run]
            if passed:
                taken = ", ".join(dict.fromkeys(f"`{result.run_by_seed[seed].folder.name}`" for seed in passed))
                texts.append(
                    f"{result.label}: {seed_list(passed)} of `{run.folder.name}` not counted again; taken from {taken}."
                )
    return texts
