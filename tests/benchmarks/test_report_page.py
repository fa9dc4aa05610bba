"""The report's page: values, sources and pictures from real records, and folders that cannot be written."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from benchmarks import experiments
from benchmarks.cli import main
from benchmarks.published import entries
from benchmarks.report.provenance import duration
from benchmarks.run import Run
from tests.helpers.finished_runs import REGRESSION, planned_runs, write_record

DIGITS = "random_label_mnist"


def report(out: Path, to: Path) -> str:
    assert main(["report", "--out", str(out), "--to", str(to), "--quiet"]) == 0
    return (to / "RESULTS.md").read_text()


def table_rows(text: str, start: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(f"| {start}")
    ]


@pytest.fixture(scope="module")
def real(trained_runs: tuple[Path, list[Run]], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Run], str, Path]:
    """Trained runs of three methods, the page of them, and its folder."""
    (out, runs), to = trained_runs, tmp_path_factory.mktemp("to")
    return runs, report(out, to), to


def test_the_tables_equal_means_and_intervals_of_the_records(real: tuple[list[Run], str, Path]) -> None:
    runs, text, _ = real
    for method, label in (("backprop", "backprop"), ("continual_backprop", "continual backprop"), ("redo", "ReDo")):
        own = [row for run in runs if run.method == method for row in run.rows()]
        seeds = sorted({row["seed"] for row in own})
        errors = np.array([[row["squared_error"] for row in own if row["seed"] == seed] for seed in seeds])
        assert errors.shape == (len(seeds), 10)
        (row,) = (row for row in table_rows(text.partition("<details>")[0], f"{label} |"))
        assert str(len(seeds)) in row
        for part in (errors[:, :1], errors[:, -2:], errors):
            means = part.mean(1)
            half = scipy.stats.sem(means) * scipy.stats.t.ppf(0.975, len(seeds) - 1)
            assert f"{means.mean():.3f} ± {half:.3f}" in row


def test_the_page_shows_provenance_and_what_is_missing(real: tuple[list[Run], str, Path]) -> None:
    runs, text, _ = real
    about = runs[0].about()
    assert text.startswith("# Results\n")
    assert "`python -m benchmarks slowly_changing_regression --methods redo --seeds 2 " in text
    commit = about["commit"]  # None outside a git checkout
    assert text.count("commit unknown" if commit is None else f"`{commit[:10]}`") >= 3
    assert about["hardware"]["processor"] in text
    assert f"torch {about['versions']['torch']}" in text
    assert "- **random_label_mnist**: nothing finished. To run it: `python -m benchmarks random_label_mnist" in text
    assert (
        "size published, the published length (steps 1000000); size one_bit; L2, L2 Init, Shrink and Perturb, " in text
    )
    assert "Published: steps 1000000, flip every 10000, bin 20000." in text
    assert "backprop: start 0.62, end 1.2 to 1.3†" in text
    assert "start 0.62, end 1.2 to 1.3 [1], with steps 1000000, flip every 10000, bin 20000" in text
    assert "[1] Dohare et al., arXiv 2108.06325" in text


def test_the_folder_contains_exactly_the_pages_pictures(real: tuple[list[Run], str, Path]) -> None:
    _, text, to = real
    shown = re.findall(r"!\[[^\]]+\]\((results/[^)]+)\)", text)
    assert len(shown) == 1
    assert {str(file.relative_to(to)) for file in (to / "results").iterdir()} == set(shown)
    assert all((to / name).read_bytes().startswith(b"\x89PNG") for name in shown)


def test_the_page_is_reproducible_and_old_pictures_are_deleted(
    real: tuple[list[Run], str, Path], tmp_path: Path
) -> None:
    runs, text, to = real
    before = {file: file.read_bytes() for file in to.rglob("*.*")}
    assert report(runs[0].out, to) == text
    assert {file: file.read_bytes() for file in to.rglob("*.*")} == before
    (to / "results" / "other.png").write_bytes(b"other")  # not from a page
    write_record(planned_runs(tmp_path, DIGITS, "backprop", seeds=2)[0])
    report(tmp_path, to)
    names = sorted(file.name for file in (to / "results").iterdir())
    assert names == ["other.png", "random_label_mnist_quick.png"]
    report(runs[0].out, to)


def test_keep_leaves_what_the_page_says_about_other_experiments(tmp_path: Path) -> None:
    digits = planned_runs(tmp_path / "one", DIGITS, "backprop continual_backprop", seeds=2)
    regression = planned_runs(tmp_path / "two", REGRESSION, "backprop", seeds=1)
    for run in [*digits, *regression]:
        write_record(run)
    to, out = tmp_path / "to", ["report", "--to", str(tmp_path / "to"), "--quiet", "--out"]
    first = report(tmp_path / "one", to)
    for _ in range(2):  # the second time, both are kept or written again
        assert main([*out, str(tmp_path / "two"), "--keep"]) == 0
        text = (to / "RESULTS.md").read_text()
        for name in (REGRESSION, DIGITS):
            assert f"](results/{name}_" in text
        assert text.partition(f"\n## {DIGITS}")[2] == first.partition(f"\n## {DIGITS}")[2]
        assert f"| [{REGRESSION}](#{REGRESSION}): quick |" in text
        assert sorted(file.name for file in (to / "results").iterdir()) == [
            "random_label_mnist_quick.png",
            "slowly_changing_regression_quick.png",
        ]
    report(tmp_path / "two", to)
    assert DIGITS not in (to / "RESULTS.md").read_text().partition("\n## What was run")[0]
    assert [file.name for file in (to / "results").iterdir()] == ["slowly_changing_regression_quick.png"]


def test_a_seed_in_two_runs_counts_once(tmp_path: Path) -> None:
    (ensemble,) = planned_runs(tmp_path, DIGITS, "l2", seeds=3)
    (alone,) = planned_runs(tmp_path, DIGITS, "l2", seeds=1, first=2)
    (further,) = planned_runs(tmp_path, DIGITS, "l2", seeds=1, first=3)
    write_record(ensemble, keep=0.9)
    once = report(tmp_path, tmp_path / "to")
    write_record(alone, keep=0.1)  # worse than any seed of the ensemble
    text = report(tmp_path, tmp_path / "to")
    assert table_rows(text, "L2") == table_rows(once, "L2")
    assert "L2: seed 2 of `seed-2` not counted again; taken from `seeds-0-to-2`." in text
    assert "not counted again" not in once
    write_record(further)
    text = report(tmp_path, tmp_path / "to")
    assert table_rows(text, "L2")[-1][2] == "4"
    assert "`python -m benchmarks random_label_mnist --methods l2 --seeds 1 --first-seed 3`" in text
    assert f"{duration(120)}\n" in text  # of the two runs that are counted; their wall time was not measured
    for run in (ensemble, further):
        run.record.cut(run.record.size - len('{"end": 10}\n'))
        run.finish(60.0, 90.0)
    assert f"{duration(120)} in sum, at most 90 s of wall time a run" in report(tmp_path, tmp_path / "to")


def test_similar_problems_are_shown_as_a_family(tmp_path: Path) -> None:
    grid = {"activation": ["tanh", "relu", "elu"], "lr": [0.01, 0.001]}
    runs = planned_runs(tmp_path, REGRESSION, "backprop continual_backprop", grid=grid, steps=50)
    for run in runs:
        write_record(run)
    write_record(planned_runs(tmp_path, REGRESSION, "backprop", optimizer="adam", steps=50)[0])
    text = report(tmp_path, tmp_path / "to")
    assert text.count("\n### ") == 2
    assert "hidden units (relu, elu or tanh)" in text
    assert [row[:2] for name in ("relu", "elu", "tanh") for row in table_rows(text, f"{name} |")] == [
        [name, lr] for name in ("relu", "elu", "tanh") for lr in ("0.001", "0.01")
    ]
    assert "--grid activation=relu,elu,tanh lr=0.001,0.01" in text
    assert len(list((tmp_path / "to" / "results").iterdir())) == 2
    assert "(with steps 50)" not in text


def test_every_experiment_has_a_section_with_published_values(tmp_path: Path) -> None:
    for name in experiments.NAMES:
        for run in planned_runs(tmp_path, name, "backprop continual_backprop"):
            write_record(run, rows=2)
    text = report(tmp_path, tmp_path / "to")
    assert "nothing finished" not in text
    for name in experiments.NAMES:
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert f"![{experiments.display(name).main.title}: {name}, Size quick](results/{name}_quick.png)" in section
        assert f"| [{name}](#{name}): quick | {experiments.display(name).asked} |" in text
        for entry in entries():
            if entry.experiment == name and entry.other:
                assert f"- {entry.other}: " in section
        for note in experiments.display(name).notes:
            assert note in section
    assert "mean 16% [1], with tasks 50, epochs 400" in text
    assert re.search(r"end 90\.5% \[\d\], with source imagenet, .*tasks 5000", text)
    assert "- [1] Kumar, Marklund and Van Roy, arXiv 2308.11958: quoted by a secondary source." in text


def test_diverged_seeds_are_listed(tmp_path: Path) -> None:
    first, second = planned_runs(tmp_path, DIGITS, "crelu", seeds=2)
    (other,) = planned_runs(tmp_path, DIGITS, "redo", seeds=1)
    write_record(first)
    for run in (second, other):
        write_record(run, rows=2)
        run.delete_results()
        run.record.begin(run.head)
        run.record.add([{"seed": run.seeds[0], "task": 1, "online_accuracy": 0.4}])
        run.finish(1.0, diverged="the loss is nan")
    text = report(tmp_path, tmp_path / "to")
    assert table_rows(text, "CReLU")[0][2] == "1 (1 diverged)"
    assert table_rows(text, "ReDo")[0][2] == "0 (1 diverged)"
    assert "CReLU: diverged with seed 1: the loss is nan." in text


def test_unfinished_and_unusable_runs_are_listed(tmp_path: Path) -> None:
    good, begun = planned_runs(tmp_path, DIGITS, "redo", seeds=2)
    (broken,) = planned_runs(tmp_path, DIGITS, "l2")
    write_record(good)
    begun.record.begin(begun.head)
    write_record(broken).record.file.write_text("nonsense\n")
    text = report(tmp_path, tmp_path / "to")
    assert f"`{begun.folder.relative_to(tmp_path)}`: 0 rows so far" in text
    assert f"- `{broken.folder.relative_to(tmp_path)}`: Cannot read" in text


def test_a_folder_that_cannot_be_written_is_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(planned_runs(tmp_path / "out", DIGITS, "backprop")[0])
    (tmp_path / "to").write_text("content")
    assert main(["report", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to")]) == 2
    assert "Cannot write" in capsys.readouterr().err
    assert (tmp_path / "to").read_text() == "content"
    (tmp_path / "half" / "results").mkdir(parents=True)
    (tmp_path / "half" / "RESULTS.md").write_text("old")
    (tmp_path / "half" / "results" / "random_label_mnist_quick.png").mkdir()  # a folder with the name of a picture
    assert main(["report", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "half")]) == 2
    assert "Cannot write" in capsys.readouterr().err
    assert (tmp_path / "half" / "RESULTS.md").read_text() == "old"


def test_missing_results_are_reported_with_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--out", str(tmp_path / "none"), "--to", str(tmp_path / "to")]) == 2
    assert "python -m benchmarks" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_a_problem_with_methods_of_its_own_is_shown_alone(tmp_path: Path) -> None:
    grid = {"activation": ["relu", "elu", "swish", "tanh"]}
    runs = planned_runs(tmp_path, REGRESSION, "backprop continual_backprop", grid=grid, steps=50)
    for run in [*runs, *planned_runs(tmp_path, REGRESSION, "l2 swr", steps=50)]:
        write_record(run)
    text = report(tmp_path, tmp_path / "to")
    title = "Size quick, but steps 50"
    assert re.findall(r"^### (.+)$", text, re.MULTILINE) == [title, f"{title}, each activation"]
    alone, _, family = text.partition(f"### {title}, each activation")
    assert f'With more methods: activation relu is in "{title}".' in family
    assert [row[0] for row in table_rows(family.partition("<details>")[0], "") if row[0] in grid["activation"]] == [
        "elu",
        "swish",
        "tanh",
    ]
    for label in ("backprop", "L2", "SWR", "continual backprop"):
        assert table_rows(alone.partition("### ")[2].partition("<details>")[0], f"{label} |")
    assert len(list((tmp_path / "to/results").glob("*.png"))) == 2
