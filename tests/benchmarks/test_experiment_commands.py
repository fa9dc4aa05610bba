"""``python -m benchmarks <experiment>``: complete runs, repeated commands, diverged and failed runs, and full disks."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import torch

from benchmarks.run import Run
from benchmarks.slowly_changing_regression.settings import Settings
from tests.helpers.commands import finish, records, run, run_here, start, table, until
from tests.helpers.finished_runs import planned_runs, train

REGRESSION = ["slowly_changing_regression", "--methods", "l2", "--steps", 1500, "--bin", 250]


def trained(out: Path, bin: int = 250) -> tuple[str, bytes]:
    """Path and content of the record of `REGRESSION`, trained in this process."""
    (run,) = planned_runs(out, "slowly_changing_regression", "l2", seeds=1, steps=1500, bin=bin)
    train(run)
    ((name, content),) = records(out).items()
    return name, content


def rows(record: bytes) -> list[dict[str, float]]:
    return [json.loads(line) for line in record.splitlines()][1:-1]


def test_a_repeated_command_shows_the_finished_runs(tmp_path: Path) -> None:
    out = tmp_path / "results"
    command = ["slowly_changing_regression", "--steps", 1000, "--bin", 500, "--seeds", 2, "--out", out]
    output, errors = run(*command, "--picture", tmp_path / "copy.png")
    assert errors == ""
    made = records(out)
    assert len(made) == 2
    for name, record in made.items():
        assert name.endswith("seeds-0-to-1/record.jsonl")  # one ensemble
        assert [(row["seed"], row["step"]) for row in rows(record)] == [(0, 500), (1, 500), (0, 1000), (1, 1000)]
        assert all(0 < row["squared_error"] < 20 for row in rows(record))
        about = json.loads((out / name).with_name("about.json").read_text())
        assert about["versions"]["torch"] == torch.__version__
        assert about["hardware"]["cores"]
        assert about["seconds"] > 0
        assert about["wall_seconds"] > 0
    (picture,) = out.rglob("pictures/*.png")
    assert picture.name == "quick_bin-500_steps-1000_backprop+continual-backprop_seeds-0-to-1.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert " of one core for all runs; " in output
    assert " of wall time for this command. Records: " in output
    assert (tmp_path / "copy.png").read_bytes() == picture.read_bytes()
    assert not list(out.rglob("checkpoint.pt"))
    assert output.count("step 1,000: squared error") == 2

    again, errors = run_here(*command)
    assert errors == ""
    assert "All runs were already finished" in again
    assert table(again) == table(output)
    assert records(out) == made


def test_diverged_and_failed_runs_do_not_affect_the_others(tmp_path: Path) -> None:
    grid = ["--grid", "lr=.01,1e10,1e300", "--workers", 2]  # the last one exceeds float32
    output, errors = run(*REGRESSION, *grid, "--out", tmp_path, status=2)
    assert "lr 10000000000.0, seed 0: stopped, as it diverged: the loss is" in output
    assert errors.count("Traceback") == 1
    assert "The run L2, lr 1e+300, seed 0 failed:" in errors
    ended = {name: record for name, record in records(tmp_path).items() if b'{"end"' in record}
    assert len(ended) == 2
    (diverged,) = (record for record in ended.values() if b'"diverged"' in record)
    (finished,) = (record for record in ended.values() if b'"diverged"' not in record)
    assert rows(diverged) == []
    assert len(rows(finished)) == 6

    shown, _ = run_here(*REGRESSION, "--grid", "lr=.01,1e10", "--out", tmp_path)
    assert "All runs were already finished" in shown
    assert "0 (1 diverged)" in shown
    assert "diverged: the loss is" in shown
    assert {name: records(tmp_path)[name] for name in ended} == ended


def test_a_killed_worker_is_reported_and_the_others_continue(tmp_path: Path) -> None:
    command = ["slowly_changing_regression", "--steps", 1900, "--bin", 250, "--workers", 2, "--out", tmp_path]
    with start(*command, "--checkpoint-every", 0) as process:
        until(lambda: any(tmp_path.rglob("continual_backprop*/**/checkpoint.pt")), process)  # of the second worker
        os.kill(youngest_worker(process.pid), signal.SIGKILL)
        _, errors = finish(process, status=2)
    assert "was killed (exit code -9). Run the same command again to continue from the last checkpoint." in errors
    assert sum(b'{"end"' in record for record in records(tmp_path).values()) == 1
    run_here(*command)
    assert sum(b'{"end"' in record for record in records(tmp_path).values()) == 2


def youngest_worker(pid: int) -> int:
    """The worker that was started last. Workers are children of the fork server, a child of the command."""
    return max(worker for child in children(pid) for worker in children(child))


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_results_of_another_revision_of_the_settings_are_refused(tmp_path: Path) -> None:
    name, record = trained(tmp_path)
    head, rest = record.split(b"\n", 1)
    older = json.dumps(json.loads(head) | {"revision": 1}).encode() + b"\n" + rest
    (tmp_path / name).write_bytes(older)
    for also in ([], ["--methods", "backprop", "l2"]):  # before anything is executed
        output, errors = run_here(*REGRESSION, *also, "--out", tmp_path, status=2)
        assert "has revision 1, but this run has" in errors
        assert "written by another version of the settings. Move it away, or use --fresh" in errors
        assert output == ""
        assert records(tmp_path) == {name: older}
    run_here(*REGRESSION, "--fresh", "--out", tmp_path)
    assert records(tmp_path) == {name: record}


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    _, errors = run_here(*REGRESSION, "--out", tmp_path / "file", status=2)
    assert errors.startswith("error: Cannot write to ")
    assert "Traceback" not in errors
    assert (tmp_path / "file").read_text() == "content"


def test_different_settings_never_share_a_folder(tmp_path: Path) -> None:
    def folder(method: str, *seeds: int, **given: object) -> Path:
        return Run("slowly_changing_regression", method, Settings.of(method, **given), seeds or (0,), tmp_path).folder

    assert folder("backprop") == folder("backprop", steps=300_000)
    assert folder("backprop") == folder("backprop", replacement_rate=0.5)  # which does not affect backprop
    changed = [{"steps": 3}, {"lr": 0.1}, {"replacement_rate": 0.5}, {"utility": "weight"}, {"variant": "one_bit"}]
    folders = {folder("continual_backprop", **given) for given in [{}, *changed]}
    assert len(folders | {folder("continual_backprop", 1), folder("continual_backprop", 0, 1)}) == 8
    assert "steps=3" in folder("backprop", steps=3).parent.name


def test_a_full_disk_loses_no_results(tmp_path: Path) -> None:
    """The kernel limits the size of files: with few bytes the checkpoint fails, with more the record, within a line."""
    import resource

    def limit(bytes_allowed: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_allowed, bytes_allowed))

    name, expected = trained(tmp_path / "whole", bin=2)  # many rows
    out = tmp_path / "out"
    command = [*REGRESSION[:-1], 2, "--out", out]
    for bytes_allowed in (900, 40_000):
        options = {"preexec_fn": partial(limit, bytes_allowed)}
        # bytecode that the limit cuts off would be read by later processes
        options |= {"environment": {"PYTHONDONTWRITEBYTECODE": "1"}}
        _, errors = run(*command, "--checkpoint-every", 0, status=2, **options)
        assert errors.startswith("error: Cannot write ")
        assert "File too large. Existing" in errors.replace("'", "")
        record = (out / name).read_bytes()
        assert expected.startswith(record)
        assert record.endswith(b"\n")
        assert (bytes_allowed > 1000) == any(out.rglob("checkpoint.pt"))
    run_here(*command)
    assert records(out) == {name: expected}
