"""The command ``gnt``: its own words. tests/packaging/test_packaging.py runs it from the wheel, with an experiment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gnt
from gnt._command import COMMANDS, HELP, main


def test_help_explains_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main([]) == 0
    assert capsys.readouterr().out == f"{HELP}\n" * 2
    assert [line.split()[0] for line in HELP.splitlines() if line.startswith("  ")][:-2] == list(COMMANDS)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gnt {gnt.__version__}\n"


def test_the_configuration_is_that_of_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    gnt.show_config()
    shown = capsys.readouterr().out
    assert main(["config"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek"], "error: unknown command 'chek'; did you mean check? Commands: run, report, speed, check, config"),
        (["--nothing"], "error: unknown command '--nothing'. Commands: run, report, speed, check, config"),
        (["config", "all"], "error: gnt config takes no arguments, got 'all'"),
        (["--version", "2"], "error: gnt --version takes no arguments, got '2'"),
        (["run", "random_labels_mnist"], "did you mean random_label_mnist?"),
        (["run", "report"], "error: unknown experiment 'report'"),
        (["run", "random_label_mnist", "--epoch", "3"], "(all settings: gnt run random_label_mnist --help)"),
        (["report", "--out", "nowhere"], "To create some: gnt run slowly_changing_regression --seeds 5"),
        (["speed", "--shw"], "unknown setting --shw; did you mean --show?"),
        (["speed", "--only", "nothing"], "error: --only: no workload and no variant matches 'nothing'."),
        (["check"], "gnt check: the following arguments are required: script (all arguments: gnt check --help)"),
        (["check", "nowhere.py"], "gnt check: nowhere.py is not a file"),
    ],
)
def test_errors_are_one_line_with_status_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    (line,) = printed.err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["run", "slowly_changing_regression"], ["report"], ["speed"]])
def test_a_missing_package_is_reported_before_anything_is_written(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(arguments) == 2
    assert capsys.readouterr().err == 'error: the package rich is missing. pip install "torch-gnt[benchmarks]"\n'
    assert not list(tmp_path.iterdir())


PROGRAM = """
import sys
import gnt._command
assert not [name for name in sys.modules if name.startswith(("gnt.benchmarks", "rich", "scipy", "matplotlib"))]
sys.exit(gnt._command.main(["run"]))
"""


def test_gnt_does_not_import_its_benchmarks_and_the_command_ends_quietly_with_its_reader() -> None:
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=write, stderr=subprocess.PIPE, text=True) as process:
        os.close(write)
        os.close(read)  # as of a head that has ended
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_experiments_are_listed_with_the_command_that_runs_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == main(["run", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: gnt run EXPERIMENT [settings]\n")
    assert "slippery_ant" in out
    assert "python -m benchmarks" not in out
    assert "Results go to the folder results in the current directory" in out
