"""Finding runs in a folder of results: valid runs are found, others are listed with the reason."""

import json
from pathlib import Path

import pytest

from benchmarks.errors import CannotRun
from benchmarks.report.run_finder import find_runs
from benchmarks.run import Run
from tests.helpers.finished_runs import planned_runs, write_record

DIGITS = "random_label_mnist"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A valid run."""
    (found,) = planned_runs(tmp_path, DIGITS, "backprop", seeds=3)
    return write_record(found)


def edit_head(run: Run, **changes: object) -> None:
    head, *rest = run.record.file.read_text().splitlines()
    changed = json.loads(head) | changes
    run.record.file.write_text("\n".join([json.dumps(changed), *rest]) + "\n")


def edit_row(run: Run, number: int, line: str) -> None:
    lines = run.record.file.read_text().splitlines()
    lines[number] = line
    run.record.file.write_text("\n".join(lines) + "\n")


def reason_in(out: Path) -> str:
    """The reason why the only invalid run was left out; a second, valid run is found."""
    (other,) = planned_runs(out, DIGITS, "l2", seeds=2)
    write_record(other)
    found = find_runs(out)
    assert found.runs == [other]
    (line,) = found.left_out
    assert "Traceback" not in line
    return line


def test_trained_runs_are_found(trained_runs: tuple[Path, list[Run]]) -> None:
    out, made = trained_runs
    found = find_runs(out)
    assert {each.folder: each for each in found.runs}.keys() == {each.folder for each in made}
    for each in found.runs:
        (expected,) = (other for other in made if other.folder == each.folder)
        assert each.head == expected.head
        assert each.rows() == expected.rows()
    assert not found.left_out
    assert not found.unfinished


def test_an_unfinished_run_is_listed(run: Run) -> None:
    (other,) = planned_runs(run.out, DIGITS, "l2", seeds=2)
    other.record.begin(other.head)
    other.record.add([{"seed": 0, "task": 1, "online_accuracy": 0.5}])
    with other.record.file.open("ab") as stream:
        stream.write(b'{"seed": 1, "ta')  # still being written
    found = find_runs(run.out)
    assert found.runs == [run]
    assert found.unfinished == [(other, 1)]


def test_a_setting_that_a_method_got_later_is_recorded_only_where_it_is_not_the_default(tmp_path: Path) -> None:
    made = []
    for compile in ("no", "yes"):
        (run,) = planned_runs(tmp_path, DIGITS, "fire", seeds=2, compile=compile)
        made.append(write_record(run))
        assert ("compile" in run.head["settings"]) == (compile == "yes")
    found = find_runs(tmp_path)
    assert not found.left_out
    assert {run.folder: run.settings for run in found.runs} == {run.folder: run.settings for run in made}


HEADS = [
    ({"revision": 1}, "made with revision 1 of the settings; this is revision 2"),
    (
        {"experiment": "random_labels_mnist"},
        "unknown experiment 'random_labels_mnist'; did you mean random_label_mnist?",
    ),
    ({"method": "backprops"}, "unknown method 'backprops'; did you mean backprop?"),
    (
        {"settings": {"tasks": 10, "epochs": 100, "compile": "no", "lr": 0.001, "width": 3}},
        "this version has no setting width",
    ),
    ({"settings": {"tasks": 10, "epochs": 100, "compile": "no"}}, "this version also has lr"),
    (
        {"settings": {"tasks": 0, "epochs": 100, "compile": "no", "lr": 0.001}},
        "tasks: must be an integer of at least 1",
    ),
    ({"settings": {"tasks": "10", "epochs": 100, "compile": "no", "lr": 0.001}}, "tasks: '10' is not a valid value"),
    ({"settings": {"tasks": 7, "epochs": 100, "compile": "no", "lr": 0.001}}, "is in the wrong folder"),
    ({"seeds": [0, 1]}, "is in the wrong folder: its settings belong to"),
    ({"seeds": []}, "invalid seeds: []"),
    ({"seeds": None}, "does not start with a head"),
]


@pytest.mark.parametrize(("changes", "reason"), HEADS, ids=[reason for _, reason in HEADS])
def test_records_of_other_versions_are_left_out(changes: dict[str, object], reason: str, run: Run) -> None:
    edit_head(run, **changes)
    assert reason in reason_in(run.out)


ROWS = [
    ("not json", "Cannot read"),
    ("[1, 2]", "row 2 contains other values than numbers"),
    ('{"seed": 1, "task": 1, "online_accuracy": NaN}', "row 2 contains other values than numbers"),
    ('{"seed": 1, "task": 1, "online_accuracy": "0.5"}', "row 2 contains other values than numbers"),
    ('{"seed": 9, "task": 1, "online_accuracy": 0.5}', "row 2 is not a row of this run"),
    ('{"seed": 1, "task": 1}', "row 2 is not a row of this run"),
    ('{"seed": 0, "task": 1, "online_accuracy": 0.5}', "its seeds do not have the same rows"),
]


@pytest.mark.parametrize(("line", "reason"), ROWS, ids=[reason for _, reason in ROWS])
def test_a_damaged_record_is_left_out(line: str, reason: str, run: Run) -> None:
    edit_row(run, 2, line)
    assert reason in reason_in(run.out)


def test_a_record_with_missing_rows_is_left_out(run: Run) -> None:
    lines = run.record.file.read_text().splitlines()
    run.record.file.write_text("\n".join([*lines[:5], *lines[6:]]) + "\n")
    assert "its end counts 30 rows, there are 29" in reason_in(run.out)


def test_an_empty_record_is_left_out(run: Run) -> None:
    run.record.file.write_text("")
    assert "its record is empty" in reason_in(run.out)


@pytest.mark.parametrize("about", [None, "{", "[]", '{"seconds": "long"}'])
def test_a_run_with_a_damaged_about_json_is_left_out(about: str | None, run: Run) -> None:
    file = run.folder / "about.json"
    if about is None:
        file.unlink()
    else:
        file.write_text(about)
    assert "about.json" in reason_in(run.out)


def test_missing_results_are_reported_with_a_command(tmp_path: Path) -> None:
    with pytest.raises(
        CannotRun, match=r"nowhere is not a folder\. To create some: python -m benchmarks .* --out .*nowhere"
    ):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(CannotRun, match=r"No finished runs below .*\. To create some: python -m benchmarks"):
        find_runs(tmp_path)
    (begun,) = planned_runs(tmp_path, DIGITS, "l2")
    begun.record.begin(begun.head)
    with pytest.raises(CannotRun, match=r"only 1 unfinished\. To create some"):
        find_runs(tmp_path)
