"""``kill -9`` at random moments, and the same command again: the records are those of a run that was never stopped."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.helpers.commands import checkpoints, finish, kill, records, run, start, table, until

SHORT = ["--steps", 4000, "--bin", 250, "--flip-every", 600, "--replacement-rate", 0.01, "--maturity-threshold", 20]
CBP = ["slowly_changing_regression", "--methods", "continual_backprop", *SHORT]
ALONE = [*CBP, "--optimizer", "adam"]
COMMANDS = {
    "one seed": ALONE,
    "an ensemble": [*CBP, "--seeds", 3],
    "two workers and a grid": [*CBP, "--grid", "lr=.01,.003", "--workers", 2],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments(name: str, tmp_path: Path) -> None:
    moments = random.Random(name)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    began = time.monotonic()
    shown, _ = run(*COMMANDS[name], "--out", whole)
    took = time.monotonic() - began

    command = [*COMMANDS[name], "--out", broken, "--checkpoint-every", 0]
    cut_short = 0
    for number in range(3):
        process = start(*command)
        if number < 2:  # while it trains, at whatever it is doing then
            before = checkpoints(broken)
            until(lambda before=before: any(before.get(f) != t for f, t in checkpoints(broken).items()), process)  # type: ignore[misc]
            time.sleep(moments.uniform(0, 0.2))
        else:  # at whatever moment at all: while it starts, too
            time.sleep(moments.uniform(0, took))
        kill(process)
        cut_short += bool(checkpoints(broken))
    assert cut_short >= 2, "the kills came too late to prove anything"
    shown_again, errors = run(*command)
    assert errors == ""
    assert records(broken) == records(whole)
    assert table(shown_again) == table(shown)
    assert not checkpoints(broken)


def test_stopped_killed_and_cut_at_any_byte(tmp_path: Path) -> None:
    """Rows that came after the last checkpoint are cut off, wherever the last of them breaks off."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(*ALONE, "--out", whole)
    ((name, expected),) = records(whole).items()
    record = broken / name
    command = [*ALONE, "--out", broken, "--checkpoint-every", 1000]  # seconds: it saves when it is stopped only

    with start(*command) as process:
        until(lambda: record.exists() and record.read_bytes().count(b"\n") >= 3, process)
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C in a terminal reaches command and workers
        output, errors = finish(process, status=130)
    assert errors == ""
    told = "Stopped. To go on from here: python -m benchmarks slowly_changing_regression --methods continual_backprop "
    assert output.splitlines()[-1].startswith(told)
    saved = record.stat().st_size
    assert expected.startswith(record.read_bytes())

    process = start(*command)
    until(lambda: record.stat().st_size > saved + 100, process)
    kill(process)
    # short of what the next process is waited for to write, or it would be killed before it has begun
    torn = random.Random(0).randrange(saved + 1, saved + 100)
    os.truncate(record, torn - (record.read_bytes()[torn - 1 : torn] == b"\n"))  # in the middle of a line

    with start(*command) as process:  # the command alone is killed: its worker must notice, save and end
        until(lambda: record.read_bytes()[:-1].count(b"\n") >= 5 and record.stat().st_size > saved + 100, process)
        saved_before = checkpoints(broken)
        process.kill()
        process.wait()
        until(lambda: checkpoints(broken) != saved_before)
    assert record.read_bytes() != expected
    assert expected.startswith(record.read_bytes())
    run(*command)
    assert record.read_bytes() == expected


@pytest.mark.parametrize("rows", [0, 3])
def test_a_job_that_is_told_to_end_saves(rows: int, tmp_path: Path) -> None:
    """Schedulers of clusters, and `timeout`, send SIGTERM to all processes of a training at once: early, or while it
    trains.
    """
    command = [*ALONE, "--out", tmp_path, "--checkpoint-every", 1000]
    with start(*command) as process:
        until(lambda: len(list(tmp_path.rglob("lock" if not rows else "record.jsonl"))) == 1, process)
        until(lambda: not rows or next(iter(records(tmp_path).values())).count(b"\n") > rows, process)
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = finish(process, status=130)
    assert errors == ""
    assert output.splitlines()[-1].startswith("Stopped. To go on from here: ")
    assert checkpoints(tmp_path) or not rows


def test_a_compiled_run_that_was_killed(tmp_path: Path) -> None:
    """Its learner has to go by the graph from the first step on (`benchmarks.graph_warmup`)."""
    compiled = [*ALONE, "--compile", "yes"]
    run(*compiled, "--out", tmp_path / "whole")
    command = [*compiled, "--out", tmp_path / "broken", "--checkpoint-every", 0]
    process = start(*command)
    until(lambda: bool(checkpoints(tmp_path / "broken")), process)
    kill(process)
    assert checkpoints(tmp_path / "broken")
    run(*command)
    assert records(tmp_path / "broken") == records(tmp_path / "whole")
