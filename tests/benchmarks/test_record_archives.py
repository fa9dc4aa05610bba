"""The records kept beside a page: rows are added to it without the runs it was made from."""

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from benchmarks.cli import main
from tests.helpers.finished_runs import REGRESSION, planned_runs, write_record

DIGITS = "random_label_mnist"


def report(out: Path, to: Path, *options: str) -> str:
    assert main(["report", "--out", str(out), "--to", str(to), "--quiet", *options]) == 0
    return (to / "RESULTS.md").read_text()


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")}


def make(out: Path, methods: str, experiment: str = DIGITS, **options: int) -> None:
    for run in planned_runs(out, experiment, methods, **options):
        write_record(run)


def test_a_row_is_added_without_the_earlier_runs(tmp_path: Path) -> None:
    make(tmp_path / "all", "backprop continual_backprop l2")
    make(tmp_path / "all", "backprop", REGRESSION)
    make(tmp_path / "first", "backprop continual_backprop")
    make(tmp_path / "first", "backprop", REGRESSION)
    make(tmp_path / "second", "l2")
    report(tmp_path / "all", tmp_path / "expected", "--records")
    report(tmp_path / "first", tmp_path / "to", "--records")
    assert files(tmp_path / "to") != files(tmp_path / "expected")
    report(tmp_path / "second", tmp_path / "to", "--keep", "--records")
    assert files(tmp_path / "to") == files(tmp_path / "expected")
    report(tmp_path / "none", tmp_path / "to", "--records")  # of the archives alone
    assert files(tmp_path / "to") == files(tmp_path / "expected")


def test_archived_records_can_be_unpacked_into_a_folder_of_results(tmp_path: Path) -> None:
    make(tmp_path / "out", "backprop continual_backprop")
    text = report(tmp_path / "out", tmp_path / "to", "--records")
    (tmp_path / "again").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "to" / "records" / f"{DIGITS}.tar.xz"], cwd=tmp_path / "again", check=True)
    assert files(tmp_path / "again") == files(tmp_path / "out")
    assert report(tmp_path / "again", tmp_path / "other") == text
    assert not (tmp_path / "other" / "records").exists()


def test_a_run_in_the_folder_of_results_replaces_the_archived_one(tmp_path: Path) -> None:
    make(tmp_path / "out", "backprop")
    old = report(tmp_path / "out", tmp_path / "to", "--records")
    for run in planned_runs(tmp_path / "new", DIGITS, "backprop"):
        write_record(run, keep=0.5)
    new = report(tmp_path / "new", tmp_path / "expected")
    assert report(tmp_path / "new", tmp_path / "to", "--records") == new != old
    shutil.rmtree(tmp_path / "new")
    assert report(tmp_path / "new", tmp_path / "to", "--records") == new


def test_without_the_option_archives_are_neither_read_nor_changed(tmp_path: Path) -> None:
    make(tmp_path / "out", "backprop")
    make(tmp_path / "other", "l2")
    report(tmp_path / "out", tmp_path / "to", "--records")
    before = files(tmp_path / "to" / "records")
    assert "backprop |" not in report(tmp_path / "other", tmp_path / "to")
    assert files(tmp_path / "to" / "records") == before


def test_keep_leaves_archived_records_that_cannot_be_read_any_more(tmp_path: Path) -> None:
    make(tmp_path / "old", "backprop", REGRESSION)
    page = report(tmp_path / "old", tmp_path / "to", "--records")
    (archive,) = (tmp_path / "to" / "records").iterdir()
    for record in (tmp_path / "old").rglob("record.jsonl"):
        record.write_text(record.read_text().replace('"revision": ', '"revision": 9', 1))
    with tarfile.open(archive, "w:xz") as earlier:
        for file in (tmp_path / "old").rglob("*.json*"):
            earlier.add(file, str(file.relative_to(tmp_path / "old")))
    before = archive.read_bytes()
    make(tmp_path / "new", "backprop")
    assert parts(report(tmp_path / "new", tmp_path / "to", "--keep", "--records"), REGRESSION) == parts(
        page, REGRESSION
    )
    assert archive.read_bytes() == before


def test_runs_with_and_without_compiled_steps_are_in_one_report(tmp_path: Path) -> None:
    for compile in ("no", "yes"):
        for run in planned_runs(tmp_path / "out", DIGITS, "backprop snr", compile=compile):
            write_record(run)
    assert "| SNR |" in report(tmp_path / "out", tmp_path / "to")


def test_keep_refuses_to_lose_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "out", "backprop continual_backprop", seeds=3)
    report(tmp_path / "out", tmp_path / "to")
    before = files(tmp_path / "to")
    make(tmp_path / "new", "backprop l2")
    assert main(["report", "--out", str(tmp_path / "new"), "--to", str(tmp_path / "to"), "--keep"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "random_label_mnist, Size quick: the page has more than was found" in message
    assert "would lose backprop (3 seeds). Add these runs to the folder" in message
    assert files(tmp_path / "to") == before
    make(tmp_path / "new", "backprop continual_backprop", seeds=3)
    report(tmp_path / "new", tmp_path / "to", "--keep")


def parts(text: str, experiment: str = DIGITS) -> dict[str, str]:
    section = text.partition(f"\n## {experiment}\n")[2].partition("\n## ")[0]
    return {part.partition("\n")[0]: part.rstrip() for part in section.split("\n### ")[1:]}


def test_methods_are_added_to_a_part_whose_runs_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to, further = tmp_path / "to", "Size quick, further methods"
    make(tmp_path / "old", "backprop continual_backprop", seeds=3)
    make(tmp_path / "old", "backprop continual_backprop", seeds=3, epochs=5)
    old = parts(report(tmp_path / "old", to))
    for run in planned_runs(tmp_path / "new", DIGITS, "l2 redo", seeds=3):
        write_record(run, keep=0.5)
    make(tmp_path / "new", "l2", size="published")
    for _ in range(2):  # the second time, the part of further methods is made again
        text = report(tmp_path / "new", to, "--keep", "--records")
        new = parts(text)
        assert list(new) == ["Size published", "Size quick", further, "Size quick, but epochs 5"]
        assert new["Size quick"].rpartition("</details>")[0] == old["Size quick"].rpartition("</details>")[0]
        assert new[further].count("\n| L2 |") == 2  # its row, and continual backprop's difference from it
        assert new[further].count("\n| backprop |") == 1  # the difference
        assert "| ReDo | 3 | " in new[further]
        assert not re.search(r"\n\n\n|[^\n]\n### ", text)
        assert "Published values for comparable settings: none." not in text
        assert "corrected for 2 comparisons (without backprop)" in new[further]
        assert f"results/{DIGITS}_quick_further-methods.png" in new[further]
        assert "size quick (backprop, L2, ReDo and continual backprop, 3 seeds each)" in text
        assert sorted(file.name for file in (to / "results").iterdir()) == [
            f"{DIGITS}_published.png",
            f"{DIGITS}_quick.png",
            f"{DIGITS}_quick_epochs-5.png",
            f"{DIGITS}_quick_further-methods.png",
        ]
    make(tmp_path / "third", "parseval", seeds=3)
    before = files(to)
    assert main(["report", "--out", str(tmp_path / "third"), "--to", str(to), "--keep"]) == 2  # without the records
    assert "would lose L2 (3 seeds) and ReDo (3 seeds)" in " ".join(capsys.readouterr().err.split())
    assert files(to) == before
    with_all = parts(report(tmp_path / "old", to, "--keep", "--records"))  # all runs of the size are there again
    assert list(with_all) == ["Size published", "Size quick", "Size quick, but epochs 5"]
    assert with_all["Size quick"].count("\n| L2 |") == with_all["Size quick"].count("\n| backprop |") == 2


@pytest.mark.parametrize(
    "name", ["../../outside", f"{DIGITS}/../x/seed-0/record.jsonl", f"{REGRESSION}/a/seed-0/record.jsonl"]
)
def test_archives_with_other_content_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "to" / "records").mkdir(parents=True)
    with tarfile.open(tmp_path / "to" / "records" / f"{DIGITS}.tar.xz", "w:xz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    make(tmp_path / "out", "backprop")
    before = files(tmp_path / "to")
    options = ["report", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to"), "--records"]
    assert main(options) == 2
    assert "which is not a record of random_label_mnist. Restore the file" in " ".join(capsys.readouterr().err.split())
    assert files(tmp_path / "to") == before


def test_a_damaged_archive_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "out", "backprop")
    report(tmp_path / "out", tmp_path / "to", "--records")
    file = tmp_path / "to" / "records" / f"{DIGITS}.tar.xz"
    for content in (file.read_bytes()[:-40], b"", b"nonsense"):
        file.write_bytes(content)
        before = files(tmp_path / "to")
        assert main(["report", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to"), "--records"]) == 2
        assert f"Cannot read {file}" in "".join(capsys.readouterr().err.split("\n"))
        assert files(tmp_path / "to") == before


def test_published_sizes_come_first_whichever_runs_are_new(tmp_path: Path) -> None:
    for size in ("published", "quick"):
        for run in planned_runs(tmp_path / size, DIGITS, "backprop continual_backprop", size=size):
            write_record(run)
        text = report(tmp_path / size, tmp_path / "to", "--keep")
    assert re.findall(r"^### (.+)$", text, re.MULTILINE) == ["Size published", "Size quick"]
    assert re.findall(rf"^\| \[{DIGITS}\]\(#{DIGITS}\): (\w+)", text, re.MULTILINE) == ["published", "quick"]
    assert report(tmp_path / "quick", tmp_path / "to", "--keep") == text
