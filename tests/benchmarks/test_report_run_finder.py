"""What the report finds below a folder of results: sound runs; all else is told apart with the reason."""

import json
from pathlib import Path

import pytest

from benchmarks.errors import CannotRun
from benchmarks.report.run_finder import find_runs
from benchmarks.run import Run
from tests.helpers.finished_runs import planned, regression, written

DIGITS = "random_label_mnist"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A sound one."""
    (found,) = planned(tmp_path, DIGITS, "backprop", seeds=3)
    return written(found)


def edit_head(run: Run, **changes: object) -> None:
    head, *rest = run.record.file.read_text().splitlines()
    changed = json.loads(head) | changes
    run.record.file.write_text("\n".join([json.dumps(changed), *rest]) + "\n")


def edit_row(run: Run, number: int, line: str) -> None:
    lines = run.record.file.read_text().splitlines()
    lines[number] = line
    run.record.file.write_text("\n".join(lines) + "\n")


def the_reason(out: Path) -> str:
    """Why the one run that is not sound was left out; a second one is."""
    (other,) = planned(out, DIGITS, "l2", seeds=2)
    written(other)
    found = find_runs(out)
    assert found.runs == [other]
    (line,) = found.left_out
    assert "Traceback" not in line
    return line


def test_real_runs_are_found_as_they_were_made(tmp_path: Path) -> None:
    made = regression(tmp_path) + regression(tmp_path, "redo")
    found = find_runs(tmp_path)
    assert {each.folder: each for each in found.runs}.keys() == {each.folder for each in made}
    for each in found.runs:
        (twin,) = (other for other in made if other.folder == each.folder)
        assert each.head == twin.head
        assert each.rows() == twin.rows()
    assert not found.left_out
    assert not found.unfinished


def test_an_unfinished_run_is_listed(run: Run) -> None:
    (other,) = planned(run.out, DIGITS, "l2", seeds=2)
    other.record.begin(other.head)
    other.record.add([{"seed": 0, "task": 1, "online_accuracy": 0.5}])
    with other.record.file.open("ab") as stream:
        stream.write(b'{"seed": 1, "ta')  # being written at this moment
    found = find_runs(run.out)
    assert found.runs == [run]
    assert found.unfinished == [(other, 1)]


HEADS = [
    ({"revision": 1}, "made by revision 1 of the settings; this is revision 2"),
    (
        {"experiment": "random_labels_mnist"},
        "unknown experiment 'random_labels_mnist'; did you mean random_label_mnist?",
    ),
    ({"method": "backprops"}, "unknown method 'backprops'; did you mean backprop?"),
    (
        {"settings": {"tasks": 10, "epochs": 100, "compile": "no", "lr": 0.001, "width": 3}},
        "this version has no setting width",
    ),
    ({"settings": {"tasks": 10, "epochs": 100, "compile": "no"}}, "this version has, too, lr"),
    (
        {"settings": {"tasks": 0, "epochs": 100, "compile": "no", "lr": 0.001}},
        "tasks: must be a whole number of at least 1",
    ),
    ({"settings": {"tasks": "10", "epochs": 100, "compile": "no", "lr": 0.001}}, "tasks: '10' is no value of it"),
    ({"settings": {"tasks": 7, "epochs": 100, "compile": "no", "lr": 0.001}}, "lies in the wrong folder"),
    ({"seeds": [0, 1]}, "lies in the wrong folder: by its settings it belongs to"),
    ({"seeds": []}, "seeds that no run has: []"),
    ({"seeds": None}, "does not begin with what the run is"),
]


@pytest.mark.parametrize(("changes", "reason"), HEADS, ids=[reason for _, reason in HEADS])
def test_what_this_version_cannot_have_made_is_left_out(changes: dict[str, object], reason: str, run: Run) -> None:
    edit_head(run, **changes)
    assert reason in the_reason(run.out)


ROWS = [
    ("not json", "Cannot read"),
    ("[1, 2]", "row 2 is not made of numbers"),
    ('{"seed": 1, "task": 1, "online_accuracy": NaN}', "row 2 is not made of numbers"),
    ('{"seed": 1, "task": 1, "online_accuracy": "0.5"}', "row 2 is not made of numbers"),
    ('{"seed": 9, "task": 1, "online_accuracy": 0.5}', "row 2 is no row of this run"),
    ('{"seed": 1, "task": 1}', "row 2 is no row of this run"),
    ('{"seed": 0, "task": 1, "online_accuracy": 0.5}', "its seeds have not the same rows"),
]


@pytest.mark.parametrize(("line", "reason"), ROWS, ids=[reason for _, reason in ROWS])
def test_a_damaged_record_is_left_out(line: str, reason: str, run: Run) -> None:
    edit_row(run, 2, line)
    assert reason in the_reason(run.out)


def test_a_record_with_lost_rows_is_left_out(run: Run) -> None:
    lines = run.record.file.read_text().splitlines()
    run.record.file.write_text("\n".join([*lines[:5], *lines[6:]]) + "\n")
    assert "its end counts 30 rows, there are 29" in the_reason(run.out)


def test_an_empty_record_is_left_out(run: Run) -> None:
    run.record.file.write_text("")
    assert "nothing in its record" in the_reason(run.out)


@pytest.mark.parametrize("about", [None, "{", "[]", '{"seconds": "long"}'])
def test_a_run_of_unknown_origin_is_left_out(about: str | None, run: Run) -> None:
    file = run.folder / "about.json"
    if about is None:
        file.unlink()
    else:
        file.write_text(about)
    assert "about.json" in the_reason(run.out)


def test_without_finished_runs_it_says_which_command_makes_some(tmp_path: Path) -> None:
    with pytest.raises(
        CannotRun, match=r"No folder .*nowhere\. This makes some: python -m benchmarks .* --out .*nowhere"
    ):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(CannotRun, match=r"No finished runs below .*\. This makes some: python -m benchmarks"):
        find_runs(tmp_path)
    (begun,) = planned(tmp_path, DIGITS, "l2")
    begun.record.begin(begun.head)
    with pytest.raises(CannotRun, match=r"only 1 unfinished\. This makes some"):
        find_runs(tmp_path)
