"""Damaged records and other files with results are reported in one line, which names the file, and are not changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.run import Run
from benchmarks.saved_values import fields, integer, mapping, number, parse_json, sequence, text
from tests.helpers.finished_runs import planned_runs, write_record

REGRESSION = ["slowly_changing_regression", "--methods", "l2", "--steps", "500", "--bin", "250", "--quiet"]
DEEP = "[" * 100_000
ROW = '{"seed": 0, "step": 1, "squared_error": %s}'


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The run of `REGRESSION`, finished."""
    (found,) = planned_runs(tmp_path / "results", "slowly_changing_regression", "l2", 1, steps=500, bin=250)
    return write_record(found, rows=2)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a command that is refused in one line."""
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert len(line) < 1000
    return line


LINES: list[tuple[int, str | bytes, str]] = [
    (1, ROW % '"0.5"', "row 1 contains other values than numbers: squared_error must be a finite number, got '0.5'"),
    (1, ROW % "[0.5]", "squared_error must be a finite number, got [0.5]"),
    (1, ROW % "true", "squared_error must be a finite number, got True"),
    (1, ROW % "null", "squared_error must be a finite number, got None"),
    (1, ROW % "NaN", "squared_error must be a finite number, got nan"),
    (1, ROW % "1e999", "squared_error must be a finite number and <= 1e+100, got inf"),
    (1, ROW % "1e200", "squared_error must be a finite number and <= 1e+100, got 1e+200"),
    (1, ROW % ("9" * 400), "squared_error must be a finite number and <= 1e+100, got 9999"),
    (1, ROW % ("9" * 5000), "Cannot read line 2 of"),
    (1, ROW % ("[" * 300 + "]" * 300), "squared_error must be a finite number, got [[["),
    (1, ROW % DEEP, "nested too deeply"),
    (1, b'{"seed": 0, "step\xff": 1}', "Cannot read line 2 of"),
    (1, '{"seed": 0, "step": 1, "\\ud800": 1}', "Cannot read line 2 of"),
    (1, "7", "row 1 contains other values than numbers: the content must be an object with values by name, got 7"),
    (1, '{"seed": [0], "step": 1, "squared_error": 1}', "seed must be a finite number, got [0]"),
    (1, '{"seed": 0.0, "step": 1, "squared_error": 1}', "row 1 is not a row of this run"),
    (1, '{"seed": 0, "step": 1.5, "squared_error": 1}', "an integer step from 0 to"),
    (1, '{"seed": 0, "step": 1e30, "squared_error": 1}', "an integer step from 0 to"),
    (1, '{"seed": 0, "squared_error": 1}', "row 1 is not a row of this run"),
    (1, '{"seed": 0, "step": 1}', "it has no squared_error"),
    (3, '{"end": "2"}', "end must be an integer >= 0, got '2'"),
    (3, '{"end": 2, "diverged": ["why"]}', "diverged must be a text, got ['why']"),
    (3, '{"end": 1000}', "its end counts 1000 rows, there are 2"),
    (0, "[]", "it begins with [], not with the head of a record"),
    (0, "{}", "has experiment None, but this run has slowly_changing_regression"),
    (0, DEEP, "nested too deeply"),
    (0, '{"experiment": %s}' % ("[" * 300 + "]" * 300), "has experiment [[["),
    (0, b"\xff\xfe", "Cannot read"),
]


@pytest.mark.parametrize(("number", "line", "message"), LINES, ids=[f"{line!r:.40}" for _, line, _ in LINES])
def test_a_damaged_record_is_reported(number: int, line: str | bytes, message: str, run: Run, capsys) -> None:
    lines = run.record.file.read_bytes().splitlines()
    lines[number] = line if isinstance(line, bytes) else line.encode()
    run.record.file.write_bytes(b"\n".join(lines) + b"\n")
    before = run.record.file.read_bytes()
    error = refused([*REGRESSION, "--out", str(run.out)], capsys)
    assert message in error
    assert str(run.record.file) in error
    assert "Move it away, or use --fresh" in error
    report = refused(["report", "--out", str(run.out), "--to", str(run.out / "page")], capsys)
    assert f"1 that cannot be used (`{run.folder.relative_to(run.out)}`: " in report
    assert run.record.file.read_bytes() == before


ABOUTS = [
    ("[]", "the content must be an object with seconds, versions, hardware, commit, got []"),
    ("{}", "seconds is missing"),
    ({"seconds": "60"}, "seconds must be a finite number >= 0, got '60'"),
    ({"seconds": -1}, "seconds must be a finite number >= 0, got -1"),
    ({"seconds": float("nan")}, "seconds must be a finite number >= 0, got nan"),
    ({"versions": ["torch"]}, "versions must be an object with values by name, got ['torch']"),
    ({"versions": {"torch": 2}}, "versions.torch must be a text, got 2"),
    ({"hardware": "fast"}, "hardware must be an object with values by name, got 'fast'"),
    ({"hardware": {"cores": [2]}}, "hardware.cores must be an integer >= 1, got [2]"),
    ({"commit": 7}, "commit must be a text, got 7"),
    (DEEP, "nested too deeply"),
]


@pytest.mark.parametrize(("changes", "message"), ABOUTS, ids=[message for _, message in ABOUTS])
def test_a_damaged_about_json_is_reported(changes: Any, message: str, run: Run, capsys) -> None:
    file = run.folder / "about.json"
    file.write_text(changes if isinstance(changes, str) else json.dumps(json.loads(file.read_text()) | changes))
    error = refused([*REGRESSION, "--out", str(run.out)], capsys)
    assert f"Cannot read {file}: " in error
    assert message in error


HEADS = [
    ({"seeds": ["0"]}, "its record does not start with a head: seeds[0] must be an integer >= 0, got '0'"),
    ({"seeds": [2**64]}, f"seeds[0] must be an integer from 0 to {2**64 - 1}, got {2**64}"),
    ({"seeds": {"0": 0}}, "seeds must be a list, got {'0': 0}"),
    ({"revision": True}, "revision must be an integer >= 0, got True"),
    ({"experiment": ["l2"]}, "experiment must be a text, got ['l2']"),
    ({"settings": {"steps": [1]}}, "settings.steps must be a finite number, got [1]"),
]


@pytest.mark.parametrize(("changes", "message"), HEADS, ids=[message for _, message in HEADS])
def test_a_report_says_what_is_wrong_with_a_head(changes: dict[str, Any], message: str, run: Run, capsys) -> None:
    head, *rest = run.record.file.read_text().splitlines()
    run.record.file.write_text("\n".join([json.dumps(json.loads(head) | changes), *rest]) + "\n")
    error = refused(["report", "--out", str(run.out), "--to", str(run.out / "page")], capsys)
    assert "1 that cannot be used" in error
    assert message in error


def test_runs_of_the_same_settings_must_have_the_same_rows(run: Run, capsys) -> None:
    (other,) = planned_runs(run.out, "slowly_changing_regression", "l2", 1, first=1, steps=500, bin=250)
    write_record(other, rows=3)
    (line,) = {refused(["report", "--out", str(run.out), "--to", str(run.out / "page"), "--quiet"], capsys)}
    assert str(run.record.file) in line
    assert f"{other.record.file} and " in line
    assert "seed 1 does not have the same rows as seed 0" in line


def test_kinds_name_the_part_that_is_wrong() -> None:
    kind = fields(a=sequence(mapping(integer(1, 3)), length=1), b=number(above=0))
    kind("", {"a": [{"x": 3}], "b": 0.5, "c": "more"})
    for value, message in [
        ({"a": [{"x": 4}], "b": 1}, r"^a\[0\]\.x must be an integer from 1 to 3, got 4$"),
        ({"a": [], "b": 1}, r"^a must be a list of length 1, got \[\]$"),
        ({"a": [{1: 1}], "b": 1}, r"^a\[0\] must be an object with values by name, got \{1: 1\}$"),
        ({"a": [{}], "b": 0}, r"^b must be a finite number above 0, got 0$"),
        ({"a": [{}]}, r"^the content must be an object with a, b; b is missing, got \{'a': \[\{\}\]\}$"),
    ]:
        with pytest.raises(ValueError, match=message):
            kind("", value)
    with pytest.raises(ValueError, match="must be a text, got 1"):
        text("name", 1)
    with pytest.raises(ValueError, match="surrogates not allowed"):
        parse_json(b'"\\ud800"')
