"""The table at the top of the report's page, from records and from the file beside the page, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import scipy.stats

from benchmarks.cli import main
from tests.helpers.finished_runs import planned_runs, write_record

DIGITS, SPLIT = "random_label_mnist", "split_digits"
ENDS = {  # of seeds 0 to 4
    "backprop": [0.10, 0.12, 0.11, 0.13, 0.12],
    "l2": [0.80, 0.84, 0.79, 0.84, 0.80],
    "layer_norm": [0.90, 0.92, 0.91, 0.92, 0.90],
    "continual_backprop": [0.80, 0.82, 0.82, 0.81, 0.83],
}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.report.page._picture", lambda _: lambda file: file.write(b"picture"))


def change(method: str, other: str) -> str:
    """The paired difference and its interval."""
    values = [100 * (a - b) for a, b in zip(ENDS[method], ENDS[other], strict=True)]
    return f"{sum(values) / 5:+.1f}% ± {scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, 4):.1f}%"


def write(
    out: Path, methods: dict[str, list[float]], experiment: str = DIGITS, metric: str = "online_accuracy"
) -> None:
    """Records in which a seed's main metric is constant."""
    for method, values in methods.items():
        for run in planned_runs(out, experiment, method, seeds=len(values)):
            run.record.begin(run.head)
            run.record.add(
                {"seed": seed, "task": task, metric: values[seed]} for task in range(1, 11) for seed in run.seeds
            )
            run.finish(1.0)


def report(out: Path, to: Path, *more: str) -> str:
    assert main(["report", "--out", str(out), "--to", str(to), "--quiet", *more]) == 0
    return (to / "RESULTS.md").read_text()


def opening(text: str, experiment: str = DIGITS) -> list[list[str]]:
    """The cells of an experiment's rows at the top, without the first."""
    lines = [line for line in text.splitlines() if line.startswith(f"| [{experiment}](#{experiment})")]
    return [[cell.strip() for cell in line.replace("\u00a0", " ").split("|")[2:-1]] for line in lines]


def test_the_page_opens_with_who_wins_and_where_continual_backprop_stands(tmp_path: Path) -> None:
    write(tmp_path, ENDS)
    text = report(tmp_path, tmp_path / "to")
    ((asked, best, own, against, other, published),) = opening(text)
    assert asked == "Are new labels still memorised?"
    assert best == "layer norm 91.0% ± 1.2%; better than the other 3"
    assert own == "81.6% ± 1.4% (11.6% ± 1.4%)"
    assert against == f"**wins** {change('continual_backprop', 'backprop')}"
    assert other == f"layer norm: **loses** {change('continual_backprop', 'layer_norm')}"
    assert published == "backprop: mean 16%†; CBP: mean 92%†"
    assert text.index(f"| [{DIGITS}]") < 1000
    section = text.partition(f"\n## {DIGITS}\n")[2]
    sentence = "better than backprop; no difference shown from L2; worse than layer norm."
    assert f"corrected for 2 comparisons (without backprop): {sentence}" in section
    start = f"| layer norm | 5 | {change('continual_backprop', 'layer_norm')} | 0 of 5 |"
    (row,) = (line for line in section.splitlines() if line.startswith(start))
    assert row.endswith("| loses |")


def test_a_winner_that_ties_with_others_says_so_and_references_do_not_compete(tmp_path: Path) -> None:
    ahead = [0.001, 0.014, 0.020, 0.026, 0.039]  # p = 0.034
    backprop = [cbp - difference for cbp, difference in zip(ENDS["continual_backprop"], ahead, strict=True)]
    rows = {**ENDS, "backprop": backprop, "joint": [0.99] * 5, "er": ENDS["l2"]}
    write(tmp_path, {name: rows[name] for name in ("backprop", "joint", "er", "continual_backprop")}, SPLIT, "accuracy")
    ((_, best, _, against, other, *_),) = opening(report(tmp_path, tmp_path / "to"), SPLIT)
    assert best == "CBP 81.6% ± 1.4%; ties with 2 of 2"
    assert against.startswith("**wins** +2.0%")  # the planned comparison, which is not corrected
    assert other.startswith("experience replay: **ties** +0.2%")


def test_best_method_and_continual_backprop_have_one_verdict_in_both_columns(tmp_path: Path) -> None:
    """By the tests of continual backprop it loses (p = 0.034), by those of the best method there is no difference."""
    ahead = {
        "layer_norm": [0.001, 0.014, 0.020, 0.026, 0.039],
        "l2": [0.0190, 0.0195, 0.0200, 0.0195, 0.0190],
        "backprop": [0.0180, 0.0185, 0.0190, 0.0185, 0.0180],
    }
    own = ENDS["continual_backprop"]
    write(tmp_path, {name: [a + b for a, b in zip(own, each, strict=True)] for name, each in ahead.items()})
    write(tmp_path, {"continual_backprop": own})
    ((_, best, _, _, other, _),) = opening(report(tmp_path, tmp_path / "to"))
    assert best.endswith("; ties with 3 of 3")
    assert other.startswith("layer norm: **ties** -2.0%")


def test_kept_rows_are_those_of_the_records(tmp_path: Path) -> None:
    write(tmp_path / "one", ENDS)
    before = report(tmp_path / "one", tmp_path / "to")
    write_record(planned_runs(tmp_path / "two", "permuted_mnist", "l2", seeds=2)[0])
    after = report(tmp_path / "two", tmp_path / "to", "--keep")
    assert opening(after) == opening(before)
    missing = [
        next(line for line in text.splitlines() if line.startswith(f"- **{DIGITS}**")) for text in (before, after)
    ]
    assert missing[0] == missing[1]
    assert list(json.loads((tmp_path / "to" / "RESULTS.json").read_text())) == [DIGITS, "permuted_mnist"]
    report(tmp_path / "two", tmp_path / "to")
    assert list(json.loads((tmp_path / "to" / "RESULTS.json").read_text())) == ["permuted_mnist"]


def test_sizes_without_records_are_kept_with_their_sources_and_pictures(tmp_path: Path) -> None:
    write(tmp_path / "one", ENDS)
    for run in planned_runs(tmp_path / "one", DIGITS, "backprop continual_backprop", size="published", tasks=20):
        write_record(run)
    before = report(tmp_path / "one", tmp_path / "to")
    write(tmp_path / "two", {**ENDS, "layer_norm": ENDS["l2"]})
    for _ in range(2):
        after = report(tmp_path / "two", tmp_path / "to", "--keep")
        parts = [
            text.partition("\n### Size published, but tasks 20\n")[2].rpartition("</details>")
            for text in (before, after)
        ]
        assert parts[0][0]
        assert parts[0][0] == parts[1][0]
        assert after.count("\n### ") == 2
        assert parts[1][2].startswith("\n\nPublished values of these rows:\n\n- [1] Kumar, Marklund and Van Roy")
        assert len(opening(after)) == 2
        assert opening(after)[1] == opening(before)[1]
        assert opening(after)[0] != opening(before)[0]
    assert len(list((tmp_path / "to" / "results").iterdir())) == 2


def test_means_without_values_of_seeds_are_not_tested(tmp_path: Path) -> None:
    write(tmp_path / "one", ENDS)
    report(tmp_path / "one", tmp_path / "to")
    file = tmp_path / "to" / "RESULTS.json"
    content = json.loads(file.read_text())
    for method in content[DIGITS][0]["problems"][0]["methods"]:
        method["last"] = {}
    file.write_text(json.dumps(content))
    write_record(planned_runs(tmp_path / "two", "permuted_mnist", "l2")[0])
    ((_, best, own, against, other, _),) = opening(report(tmp_path / "two", tmp_path / "to", "--keep"))
    assert (best, own) == ("layer norm 91.0% ± 1.2%", "81.6% ± 1.4% (11.6% ± 1.4%)")
    assert (against, other) == ("+70.0%, not tested", "layer norm: -9.4%, not tested")


def test_a_kept_section_without_data_is_named(tmp_path: Path) -> None:
    write(tmp_path / "one", ENDS)
    report(tmp_path / "one", tmp_path / "to")
    (tmp_path / "to" / "RESULTS.json").unlink()
    write_record(planned_runs(tmp_path / "two", "permuted_mnist", "l2")[0])
    text = report(tmp_path / "two", tmp_path / "to", "--keep")
    assert opening(text) == []
    assert f"- **{DIGITS}**: only its section is kept; its values are not in the table above." in text
    assert f"\n## {DIGITS}\n" in text


@pytest.mark.parametrize(
    ("content", "message"), [("{", "Cannot read"), ('{"random_label_mnist": [{"by": 1}]}', "must be a text, got 1")]
)
def test_a_damaged_file_of_summaries_is_refused(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {"backprop": ENDS["backprop"]})
    before = report(tmp_path, tmp_path / "to")
    (tmp_path / "to" / "RESULTS.json").write_text(content)
    assert main(["report", "--out", str(tmp_path), "--to", str(tmp_path / "to"), "--quiet", "--keep"]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert "leave out --keep" in line
    assert (tmp_path / "to" / "RESULTS.md").read_text() == before
    assert (tmp_path / "to" / "RESULTS.json").read_text() == content


def test_lengths_that_were_not_run_are_listed_with_what_they_take(tmp_path: Path) -> None:
    write(tmp_path, ENDS)
    lines = report(tmp_path, tmp_path / "to").splitlines()
    (line,) = (line for line in lines if line.startswith(f"- **{DIGITS}**"))
    assert (
        "size quick (backprop, L2, layer norm and continual backprop, 5 seeds each). Not run: size published, the "
        in line
    )
    assert "published length (tasks 50, epochs 400; 30 to 90 minutes of one core " in line
    assert line.endswith("and input normalization.")
    (line,) = (line for line in lines if line.startswith("- **class_pairs**"))
    assert (
        "nothing finished. To run it: `python -m benchmarks class_pairs --seeds 5`. Not run: size quick (about " in line
    )
    assert "size published, the published length (source imagenet, " in line
    assert "images of ImageNet in a folder" in line
