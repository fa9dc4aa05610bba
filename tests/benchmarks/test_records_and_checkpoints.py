"""The record of a run and its checkpoint: lines are complete at any moment, even if the disk is full."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.atomic_files import write_json
from benchmarks.cli import main
from benchmarks.errors import CannotRun
from benchmarks.record import Record
from benchmarks.run import Run
from benchmarks.slowly_changing_regression.settings import Settings

HEAD = {"experiment": "none", "seeds": [0]}
ROWS = [{"seed": 0, "task": n, "online_accuracy": 1 / (n + 3)} for n in range(40)]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    record = Record(tmp_path / "deep" / "record.jsonl")
    record.begin(HEAD)
    return record


def test_a_record_grows_by_complete_lines(record: Record) -> None:
    assert record.lines() == [HEAD]
    record.add(ROWS[:2])
    record.add([])
    assert not record.ended
    record.add(ROWS[2:3])
    assert record.lines() == [HEAD, *ROWS[:3]]  # floats are read back exactly
    record.end()
    assert record.ended
    assert record.lines()[-1] == {"end": 3}
    assert record.size == len(record.file.read_bytes())


def test_an_incomplete_last_line_is_ignored(record: Record) -> None:
    record.add(ROWS[:3])
    whole = record.file.read_bytes()
    after_two = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for size in range(after_two, len(whole)):
        record.file.write_bytes(whole[:size])
        assert record.lines() == [HEAD, *ROWS[:2]]
        record.cut(after_two)
        record.add(ROWS[2:3])
        assert record.file.read_bytes() == whole
    record.end()
    ended = record.file.read_bytes()
    for size in range(len(whole), len(ended)):
        record.file.write_bytes(ended[:size])
        assert not record.ended


def test_an_end_may_be_longer_than_what_is_read_of_a_file_at_first(record: Record) -> None:
    record.add(ROWS)
    record.end(plasticity={str(seed): {"verdict": "none", "lost": 0.123456789} for seed in range(3000)})
    assert len(record.file.read_bytes().splitlines()[-1]) > 2**17
    assert record.ended


@pytest.mark.parametrize("change", [lambda whole: whole + b"foo\n", lambda whole: whole[:-1]], ids=["more", "cut"])
def test_a_finished_record_that_was_changed_is_not_begun_again(change: Callable[[bytes], bytes], finished: Run) -> None:
    file = finished.record.file
    file.write_bytes(changed := change(file.read_bytes()))
    with pytest.raises(CannotRun, match=r"record\.jsonl is damaged: its end is not the last line"):
        finished.load(finished.make_training())
    assert file.read_bytes() == changed


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(CannotRun, match=r"it is not a regular file"):
            write_json(path, {})
    assert (tmp_path / "pipe").is_fifo()


def test_missing_and_empty_records_have_not_ended(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.jsonl")
    assert not record.ended
    record.file.touch()
    assert not record.ended


def test_nan_is_never_written(record: Record) -> None:
    before = record.file.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        record.add([ROWS[0], {"seed": 0, "error": float("nan")}])
    assert record.file.read_bytes() == before


def test_a_record_shorter_than_its_checkpoint_is_refused(record: Record) -> None:
    with pytest.raises(CannotRun, match=r"shorter than its checkpoint says\. Move it away, or use --fresh"):
        record.cut(record.size + 1)


def test_a_damaged_record_is_reported(record: Record) -> None:
    record.file.write_bytes(b"not json\n")
    with pytest.raises(CannotRun, match=r"Cannot read .*record\.jsonl: .*--fresh"):
        record.lines()


@pytest.mark.parametrize("line", [b"null", b"[1]", b'"text"', b"7"])
def test_a_head_that_is_not_an_object_is_reported(record: Record, line: bytes) -> None:
    record.file.write_bytes(line + b"\n")
    with pytest.raises(CannotRun, match=r"Cannot read .*record\.jsonl: it begins with .*--fresh"):
        record.head()


FULL = """
import json, resource, signal, sys
from pathlib import Path
from benchmarks.errors import CannotRun
from benchmarks.atomic_files import write_json
from benchmarks.record import Record

folder, HEAD, ROWS = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
record = Record(folder / "record.jsonl")
record.begin(HEAD)
write_json(folder / "about.json", {"seconds": 1})
size, added = record.size, 0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the kernel writes what fits, and reports an error for the rest
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    while True:
        record.add(ROWS[added : added + 4])
        added += 4
except CannotRun as error:
    print(added, error)
try:
    write_json(folder / "about.json", ["much"] * 1000)
except CannotRun as error:
    print(error)
"""


def test_a_full_disk_gets_all_rows_of_a_call_or_none(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), json.dumps(HEAD), json.dumps(ROWS)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    of_record, of_about = done.stdout.splitlines()
    added, message = of_record.split(" ", 1)
    assert message.startswith(f"Cannot write {tmp_path / 'record.jsonl'}: ")
    assert message.endswith("Existing content was not changed.")
    assert "File too large" in of_about
    record = Record(tmp_path / "record.jsonl")
    assert record.file.read_bytes().endswith(b"\n")
    assert record.lines() == [HEAD, *ROWS[: int(added)]]
    assert int(added) >= 4
    record.add(ROWS[int(added) :])
    assert record.lines() == [HEAD, *ROWS]
    assert json.loads((tmp_path / "about.json").read_text()) == {"seconds": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["about.json", "record.jsonl"]


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with pytest.raises(CannotRun, match=r"Cannot write .*not changed"):
        Record(tmp_path / "file" / "record.jsonl").begin(HEAD)
    with pytest.raises(CannotRun, match=r"Cannot write .*not changed"):
        write_json(tmp_path / "file" / "about.json", {})
    assert (tmp_path / "file").read_text() == "content"


@pytest.fixture
def unfinished(tmp_path: Path) -> Run:
    """A run with rows before and after its checkpoint."""
    settings = Settings.of("continual_backprop", steps=1500, bin=100)
    run = Run("slowly_changing_regression", "continual_backprop", settings, (0,), tmp_path)
    training = run.make_training()
    run.load(training)
    run.record.add(training.advance())
    run.save(training, seconds=1.5, wall_seconds=2.5)
    run.record.add(training.advance())
    return run


def test_rows_after_the_checkpoint_are_written_again_from_any_byte(unfinished: Run) -> None:
    record = unfinished.record
    rows = record.file.read_bytes()
    training = unfinished.make_training()
    assert unfinished.load(training) == (1.5, 2.5)
    saved = record.size
    assert training.done == 1
    assert len(rows) > saved + 100
    for size in range(saved, len(rows) + 1, 7):
        record.file.write_bytes(rows[:size])
        training = unfinished.make_training()
        unfinished.load(training)
        record.add(training.advance())
        assert record.file.read_bytes() == rows


def test_a_checkpoint_of_other_versions_or_unreadable_is_refused(unfinished: Run, monkeypatch) -> None:
    training = unfinished.make_training()
    unfinished.load(training)
    with monkeypatch.context() as other:
        other.setattr(torch, "__version__", "0.4")
        unfinished.save(training, seconds=1.0, wall_seconds=1.0)
    with pytest.raises(CannotRun, match=r"was started with torch 0\.4; this is torch 2.*--fresh"):
        unfinished.load(training)
    (checkpoint,) = unfinished.out.rglob("checkpoint.pt")
    checkpoint.write_bytes(b"not a checkpoint")
    before = unfinished.record.file.read_bytes()
    with pytest.raises(CannotRun, match=r"Cannot read .*checkpoint\.pt .*--fresh"):
        unfinished.load(training)
    assert unfinished.record.file.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("revision", 1, "has revision 1, but this run has 2: it was written by another version of the settings"),
        ("settings", {"steps": 7}, "has settings .*'steps': 7.*, but this run has .*'steps': 1500"),
        ("seeds", [3], r"has seeds \[3\], but this run has \[0\]"),
    ],
)
@pytest.mark.parametrize("state", ["checkpoint", "rows", "end"])
def test_a_record_of_other_settings_is_refused_and_not_changed(unfinished: Run, state, name, value, message) -> None:
    record = unfinished.record
    if state != "checkpoint":
        next(unfinished.out.rglob("checkpoint.pt")).unlink()
    if state == "end":
        record.end()
    head, *rest = record.file.read_text().splitlines(keepends=True)
    record.file.write_text(json.dumps(json.loads(head) | {name: value}) + "\n" + "".join(rest))
    before = record.file.read_bytes()
    with pytest.raises(CannotRun, match=message):
        unfinished.rows() if state == "end" else unfinished.load(unfinished.make_training())
    assert record.file.read_bytes()[: len(before)] == before
    unfinished.delete_results()
    unfinished.load(unfinished.make_training())
    assert record.lines() == [unfinished.head]


@pytest.fixture
def finished(unfinished: Run) -> Run:
    """The same run, finished."""
    unfinished.finish(1.0)
    return unfinished


def test_a_finished_run_with_a_missing_row_is_reported(finished: Run) -> None:
    lines = finished.record.file.read_text().splitlines(keepends=True)
    other = lines[1].replace('"seed": 0', '"seed": 1')
    for damaged in (lines[2:], [other, *lines[2:]], ["[1, 2]\n", *lines[2:]]):
        finished.record.file.write_text("".join([lines[0], *damaged]))
        with pytest.raises(CannotRun, match=r"record\.jsonl is damaged: its end counts .*--fresh"):
            finished.rows()


@pytest.mark.parametrize("content", ["{}", "[]", '{"seconds": "many"}', ""])
def test_a_damaged_about_json_is_reported(finished: Run, content: str) -> None:
    (finished.folder / "about.json").write_text(content)
    with pytest.raises(CannotRun, match=r"about\.json.*--fresh"):
        finished.about()


def test_a_locked_run_is_not_deleted(unfinished: Run) -> None:
    before = unfinished.record.file.read_bytes()
    with unfinished.lock(0.0), pytest.raises(CannotRun, match="Another process is executing the run"):
        unfinished.delete_results()
    assert unfinished.record.file.read_bytes() == before
    assert next(unfinished.out.rglob("checkpoint.pt"))


def test_starting_over_deletes_all_runs_or_none(finished: Run, monkeypatch, capsys) -> None:
    """If another process executes one of the runs, none are deleted."""
    monkeypatch.setattr("benchmarks.comparison.LOCK_SECONDS", 0.0)
    other = replace(finished, seeds=(1,))
    before = finished.record.file.read_bytes()
    command = ["slowly_changing_regression", "--methods", "continual_backprop", "--seeds", "2", "--fresh"]
    command += ["--steps", "1500", "--bin", "100", "--out", str(finished.out)]
    monkeypatch.setattr(Settings, "ensemble_methods", ())
    with other.lock(0.0):
        assert main(command) == 2
    assert f"Another process is executing the run {other.folder}" in capsys.readouterr().err
    assert finished.record.file.read_bytes() == before


def test_starting_over_in_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("content")
    assert main(["slowly_changing_regression", "--fresh", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("error: Cannot write to ")
