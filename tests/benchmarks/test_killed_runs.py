"""Runs that are killed at random moments and resumed: their records equal those of uninterrupted runs."""

import os
import random
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.commands import checkpoints, finish, kill, records, run, start, table, until

SHORT = ["--steps", 4000, "--bin", 250, "--flip-every", 600, "--replacement-rate", 0.01, "--maturity-threshold", 20]
CBP = ["slowly_changing_regression", "--methods", "continual_backprop", *SHORT]
ALONE = [*CBP, "--optimizer", "adam"]
COMMANDS = {
    "one seed": ALONE,
    "ensembles on two workers": [*CBP, "--seeds", 2, "--grid", "lr=.01,.003", "--workers", 2],
}


class Uninterrupted(NamedTuple):
    """A command that was not interrupted."""

    output: str
    records: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Uninterrupted]:
    """Runs a command of `COMMANDS` without interruption, once for all tests."""

    @cache
    def run_once(name: str) -> Uninterrupted:
        out = tmp_path_factory.mktemp("uninterrupted")
        started = time.monotonic()
        output, _ = run(*COMMANDS[name], "--out", out)
        return Uninterrupted(output, records(out), time.monotonic() - started)

    return run_once


def test_runs_killed_at_random_moments_give_the_same_records(uninterrupted: Any, tmp_path: Path) -> None:
    moments = random.Random(0)
    expected = uninterrupted("ensembles on two workers")
    command = [*COMMANDS["ensembles on two workers"], "--out", tmp_path, "--checkpoint-every", 0]
    cut_short = 0
    for number in range(2):
        process = start(*command)
        if number == 0:  # during training
            before = checkpoints(tmp_path)
            until(lambda before=before: any(before.get(f) != t for f, t in checkpoints(tmp_path).items()), process)  # type: ignore[misc]
            time.sleep(moments.uniform(0, 0.2))
        else:  # at any moment, including the start
            time.sleep(moments.uniform(0, expected.seconds))
        kill(process)
        cut_short += bool(checkpoints(tmp_path))
    assert cut_short, "the kills came too late"
    output, errors = run(*command)
    assert errors == ""
    assert records(tmp_path) == expected.records
    assert table(output) == table(expected.output)
    assert not checkpoints(tmp_path)


def test_rows_after_the_checkpoint_are_written_again(uninterrupted: Any, tmp_path: Path) -> None:
    """Rows after the last checkpoint are removed and written again, even if the last line is torn."""
    ((name, expected),) = uninterrupted("one seed").records.items()
    record = tmp_path / name
    command = [*ALONE, "--out", tmp_path, "--checkpoint-every", 1000]  # only when it is stopped

    with start(*command) as process:
        until(lambda: record.exists() and record.read_bytes().count(b"\n") >= 3, process)
        os.killpg(process.pid, signal.SIGINT)  # like Ctrl-C in a terminal, to command and workers
        output, errors = finish(process, status=130)
    assert errors == ""
    assert output.splitlines()[-1].startswith("Stopped. To continue: python -m benchmarks slowly_changing_regression ")
    saved = record.stat().st_size
    assert expected.startswith(record.read_bytes())

    process = start(*command)
    until(lambda: record.stat().st_size > saved + 100, process)
    kill(process)
    # below the size that is waited for next, so that the next process is not killed before it has started
    torn = random.Random(0).randrange(saved + 1, saved + 100)
    os.truncate(record, torn - (record.read_bytes()[torn - 1 : torn] == b"\n"))  # within a line

    with start(*command) as process:  # only the command is killed: its worker notices, saves and ends
        until(lambda: record.read_bytes()[:-1].count(b"\n") >= 5 and record.stat().st_size > saved + 100, process)
        saved_before = checkpoints(tmp_path)
        process.kill()
        process.wait()
        until(lambda: checkpoints(tmp_path) != saved_before)
    assert record.read_bytes() != expected
    assert expected.startswith(record.read_bytes())
    run(*command)
    assert record.read_bytes() == expected


@pytest.mark.parametrize("rows", [0, 3])
def test_sigterm_to_all_processes_saves_the_run(rows: int, tmp_path: Path) -> None:
    """Cluster schedulers and `timeout` send SIGTERM to all processes of a job at once: at its start (0 rows) or during
    training.
    """
    command = [*ALONE, "--out", tmp_path, "--checkpoint-every", 1000]
    with start(*command) as process:
        until(lambda: len(list(tmp_path.rglob("lock" if not rows else "record.jsonl"))) == 1, process)
        until(lambda: not rows or next(iter(records(tmp_path).values())).count(b"\n") > rows, process)
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = finish(process, status=130)
    assert errors == ""
    assert output.splitlines()[-1].startswith("Stopped. To continue: ")
    assert checkpoints(tmp_path) or not rows


def test_a_killed_compiled_run_gives_the_same_record(tmp_path: Path) -> None:
    """The resumed learner executes compiled steps from the start (`benchmarks.graph_warmup`)."""
    compiled = [*ALONE, "--compile", "yes"]
    run(*compiled, "--out", tmp_path / "whole")
    command = [*compiled, "--out", tmp_path / "broken", "--checkpoint-every", 0]
    process = start(*command)
    until(lambda: bool(checkpoints(tmp_path / "broken")), process)
    kill(process)
    assert checkpoints(tmp_path / "broken")
    run(*command)
    assert records(tmp_path / "broken") == records(tmp_path / "whole")
