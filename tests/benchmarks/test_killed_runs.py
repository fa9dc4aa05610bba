"""Runs that are killed at random moments and resumed: their records equal those of uninterrupted runs."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from benchmarks.experiment_options import parse_plan
from tests.helpers.commands import checkpoints, finish, kill, records, run, run_here, start, table, until
from tests.helpers.finished_runs import REGRESSION, planned_runs, train

FREQUENT = ["--bin", 250, "--flip-every", 600, "--replacement-rate", 0.01, "--maturity-threshold", 20]
CBP = ["slowly_changing_regression", "--methods", "continual_backprop", *FREQUENT]
ALONE = [*CBP, "--steps", 3000, "--optimizer", "adam"]  # long enough for a plasticity check at the end
ENSEMBLES = [*CBP, "--steps", 1900, "--seeds", 2, "--grid", "lr=.01,.003", "--workers", 2]


def uninterrupted(command: list[object], out: Path) -> dict[str, bytes]:
    """The records of a command's runs, trained to the end in this process."""
    plan, _ = parse_plan(str(command[0]), [*map(str, command[1:])])
    torch.set_flush_denormal(True)  # as workers do
    try:
        for each in plan.runs(out):
            train(each)
    finally:
        torch.set_flush_denormal(False)
    return records(out)


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    (run,) = planned_runs(tmp_path, REGRESSION, "backprop", seeds=1)
    run.folder.mkdir(parents=True)
    left = [run.folder / name for name in (".checkpoint.pt-x1", ".about.json-x2")]
    for file in left:
        file.write_bytes(b"0")
    with run.lock(0):
        assert not any(file.exists() for file in left)


def test_runs_killed_at_random_moments_give_the_same_records(tmp_path: Path) -> None:
    moments = random.Random(0)
    expected = uninterrupted(ENSEMBLES, tmp_path / "whole")
    out = tmp_path / "killed"
    command = [*ENSEMBLES, "--out", out, "--checkpoint-every", 0]
    cut_short = 0
    seconds = 0.0
    for number in range(2):
        started = time.monotonic()
        process = start(*command)
        if number == 0:  # during training
            before = checkpoints(out)
            until(lambda before=before: any(before.get(f) != t for f, t in checkpoints(out).items()), process)  # type: ignore[misc]
            time.sleep(moments.uniform(0, 0.2))
            seconds = time.monotonic() - started
        else:  # at any moment, including the start
            time.sleep(moments.uniform(0, 1.5 * seconds))
        kill(process)
        cut_short += bool(checkpoints(out))
    assert cut_short, "the kills came too late"
    output, errors = run(*command)
    assert errors == ""
    assert records(out) == expected
    shown, _ = run_here(*ENSEMBLES, "--out", tmp_path / "whole")
    assert table(output) == table(shown)
    assert not checkpoints(out)


def test_rows_after_the_checkpoint_are_written_again(tmp_path: Path) -> None:
    """Rows after the last checkpoint are removed and written again, even if the last line is torn."""
    ((name, expected),) = uninterrupted(ALONE, tmp_path / "whole").items()
    out = tmp_path / "stopped"
    record = out / name
    command = [*ALONE, "--out", out, "--checkpoint-every", 1000]  # only when it is stopped

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
        saved_before = checkpoints(out)
        process.kill()
        process.wait()
        until(lambda: checkpoints(out) != saved_before)
    assert record.read_bytes() != expected
    assert expected.startswith(record.read_bytes())
    run_here(*command)
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


@pytest.mark.filterwarnings("ignore:.*torch.jit:Warning")  # torch's compiler uses a deprecated function
def test_a_killed_compiled_run_gives_the_same_record(tmp_path: Path) -> None:
    """The resumed learner executes compiled steps from the start (`benchmarks.graph_warmup`)."""
    compiled = [*ALONE, "--compile", "yes"]
    expected = uninterrupted(compiled, tmp_path / "whole")
    command = [*compiled, "--out", tmp_path / "broken", "--checkpoint-every", 0]
    process = start(*command)
    until(lambda: bool(checkpoints(tmp_path / "broken")), process)
    kill(process)
    assert checkpoints(tmp_path / "broken")
    run(*command)
    assert records(tmp_path / "broken") == expected
