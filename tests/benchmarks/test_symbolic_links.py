"""Symbolic links below the folder of results are refused: nothing outside it is read, changed or created."""

import os
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.results_folder import inside
from benchmarks.run import Run
from tests.helpers.finished_runs import planned_runs, write_record

REGRESSION = ["slowly_changing_regression", "--methods", "l2", "--steps", "500", "--bin", "250", "--quiet"]
PLACES = ["record.jsonl", "checkpoint.pt", "about.json", "lock", ".", "..", "../..", "../../pictures"]


def contents(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The run of `REGRESSION`, finished."""
    (found,) = planned_runs(tmp_path / "results", "slowly_changing_regression", "l2", 1, steps=500, bin=250)
    return write_record(found, rows=2)


def move_and_link(place: Path, target: Path) -> None:
    """Put a link in the place of a file or folder, which becomes its target; one that does not exist stays missing."""
    target.parent.mkdir(exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(target)
    place.symlink_to(target)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a command that is refused in one line."""
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("fresh", [[], ["--fresh"]], ids=["", "fresh"])
@pytest.mark.parametrize("place", PLACES)
def test_a_linked_file_or_folder_of_a_run_is_refused(place: str, fresh: list[str], run: Run, tmp_path, capsys) -> None:
    link = Path(f"{run.folder / place}").resolve()
    move_and_link(link, tmp_path / "outside" / "target")
    before = contents(tmp_path / "outside")
    line = refused([*REGRESSION, *fresh, "--out", str(run.out)], capsys)
    assert f"{link} is a symbolic link to {tmp_path / 'outside' / 'target'}" in line
    assert f"Links below {run.out} are not followed" in line
    assert contents(tmp_path / "outside") == before
    assert link.is_symlink()


def test_a_linked_record_is_left_out_of_the_report(run: Run, tmp_path: Path, capsys) -> None:
    (other,) = planned_runs(run.out, "random_label_mnist", "l2")
    write_record(other)
    move_and_link(run.folder, tmp_path / "outside" / "run")
    assert main(["report", "--out", str(run.out), "--to", str(tmp_path / "page"), "--quiet"]) == 0
    assert f"Left out: `{run.folder.relative_to(run.out)}`: {run.folder} is a symbolic link" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["RESULTS.md", "RESULTS.json", "results"])
def test_a_linked_page_is_refused(place: str, run: Run, tmp_path: Path, capsys) -> None:
    link = tmp_path / "page" / place
    move_and_link(link, tmp_path / "outside" / "target")
    before = contents(tmp_path / "outside")
    line = refused(["report", "--out", str(run.out), "--to", str(tmp_path / "page"), "--quiet"], capsys)
    assert f"{link} is a symbolic link to " in line
    assert line.endswith("name another folder with --to.")
    assert contents(tmp_path / "outside") == before
    assert [path.name for path in (tmp_path / "page").iterdir()] == [place]


@pytest.mark.parametrize("name", ["tensorboard", "tensorboard/seed-0"])
def test_linked_event_files_are_refused(name: str, run: Run, tmp_path: Path, capsys) -> None:
    pytest.importorskip("tensorboard")
    from benchmarks.tensorboard import writer

    (tmp_path / "outside").mkdir()
    if name == "tensorboard":
        (run.folder / name).symlink_to(tmp_path / "outside")
        with pytest.raises(Exception, match="tensorboard is a symbolic link"), writer(run):
            pass
    else:  # the folder of event files is deleted first, and the link in it with it
        (run.folder / "tensorboard").mkdir()
        (run.folder / name).symlink_to(tmp_path / "outside")
        with writer(run):
            pass
        assert not (run.folder / name).is_symlink()
    assert not list((tmp_path / "outside").iterdir())


def test_the_folder_of_results_may_be_a_link(run: Run, tmp_path: Path, capsys) -> None:
    (tmp_path / "link").symlink_to(run.out)
    assert main([*REGRESSION, "--out", str(tmp_path / "link")]) == 0
    assert "All runs were already finished" in capsys.readouterr().out


def test_a_pipe_in_the_place_of_a_record_is_refused(run: Run, capsys) -> None:
    run.record.file.unlink()
    os.mkfifo(run.folder / "record.jsonl")
    assert "record.jsonl is neither a file nor a folder" in refused([*REGRESSION, "--out", str(run.out)], capsys)


def test_missing_files_pass_the_check(tmp_path: Path) -> None:
    assert inside(tmp_path, tmp_path / "a" / "b") == tmp_path / "a" / "b"
