"""From records to tables and pictures: means and confidence intervals as in scipy, curves, diverged seeds."""

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from benchmarks.comparison_picture import write_picture
from benchmarks.comparison_table import comparison_table
from benchmarks.display import DEAD, Display, Metric
from benchmarks.picture_headline import headline
from benchmarks.run_plan import RunPlan
from benchmarks.summary import MethodResults, best_results, estimate, first_and_last, results_of, run_labels

DISPLAY = Display(
    x="task",
    main=Metric("online_accuracy", "Correct", percent=True),
    higher_is_better=True,
    about=lambda settings: "made up",
    others=(DEAD,),
    chance=0.1,
)
TASKS = 10
VALUES = np.random.default_rng(0).uniform(0.2, 0.9, (2, 3, TASKS))  # method, seed, task


@pytest.fixture
def found(tmp_path: Path) -> list[MethodResults]:
    """Results of two methods with three seeds each."""
    methods = ("backprop", "continual_backprop")
    runs = RunPlan("random_label_mnist", methods, None, {}, {}, (0, 1, 2)).runs(tmp_path)
    for run in runs:
        own = VALUES[methods.index(run.method)]
        run.record.begin(run.head)
        for task in range(TASKS):
            run.record.add(
                {
                    "seed": seed,
                    "task": task + 1,
                    "online_accuracy": own[seed, task],
                    "dead_units/0": seed / 10,
                    "dead_units/1": 0.5,
                }
                for seed in run.seeds
            )
        run.record.end()
    return results_of(runs)


def labels_of(folder: Path, **settings: tuple[str, str]) -> list[str]:
    """The labels of runs with the first values and with the second."""
    runs = [
        run
        for values in zip(*settings.values(), strict=True)
        for run in RunPlan(
            "random_label_mnist", ("continual_backprop",), None, dict(zip(settings, values, strict=True)), {}, (0,)
        ).runs(folder)
    ]
    labels = run_labels(runs)
    return [labels[run] for run in runs]


def test_labels_name_what_only_changes_the_speed_only_where_nothing_else_differs(tmp_path: Path) -> None:
    both = labels_of(tmp_path, compile=("yes", "no"), utility=("contribution", "gradient"))
    assert both == ["continual backprop, utility contribution", "continual backprop, utility gradient"]
    assert labels_of(tmp_path, compile=("yes", "no")) == [
        "continual backprop, compile yes",
        "continual backprop, compile no",
    ]


@pytest.mark.parametrize("n", [2, 3, 10, 30])
def test_estimates_equal_scipys_t_intervals(n: int) -> None:
    values = np.random.default_rng(n).normal(3, 2, n)
    got = estimate(values.tolist())
    low, high = scipy.stats.t.interval(0.95, n - 1, loc=values.mean(), scale=scipy.stats.sem(values))
    assert got.mean == pytest.approx(values.mean(), rel=1e-12)
    assert got.half is not None
    assert (got.mean - got.half, got.mean + got.half) == pytest.approx((low, high), rel=1e-9)
    assert estimate(values[:1].tolist()).half is None


def test_curves_and_parts_are_means_over_seeds(found: list[MethodResults]) -> None:
    for result, own in zip(found, VALUES, strict=True):
        assert result.seeds == result.complete_seeds == [0, 1, 2]
        xs, curve = result.curve("online_accuracy", "task")
        assert xs == list(range(1, TASKS + 1))
        np.testing.assert_allclose([point.mean for point in curve], own.mean(0))
        halves = [scipy.stats.sem(own[:, task]) * scipy.stats.t.ppf(0.975, 2) for task in range(TASKS)]
        np.testing.assert_allclose([point.half for point in curve], halves)
        first, last = first_and_last(result, DISPLAY)
        assert first.mean == pytest.approx(own[:, 0].mean())
        assert last.mean == pytest.approx(own[:, -2:].mean())
        assert last.half == pytest.approx(scipy.stats.sem(own[:, -2:].mean(1)) * scipy.stats.t.ppf(0.975, 2))
        assert result.mean("dead_units").mean == pytest.approx((0.25 + 0.3 + 0.35) / 3)  # over layers, then over seeds
        assert result.has("dead_units")
        assert not result.has("nature_rank")


def test_diverged_seeds_are_listed_but_not_averaged(tmp_path: Path) -> None:
    runs = RunPlan("random_label_mnist", ("crelu",), None, {}, {}, (0, 1, 2)).runs(tmp_path)  # one run per seed
    for run, value in zip(runs, [0.2, 0.4, 0.9], strict=True):
        run.record.begin(run.head)
        run.record.add([{"seed": run.seeds[0], "task": 1, "online_accuracy": value}])
        if run.seeds == (2,):
            run.record.end(diverged="the loss is nan")
        else:
            run.record.add([{"seed": run.seeds[0], "task": 2, "online_accuracy": value}])
            run.record.end()
    (result,) = results_of(runs)
    assert (result.diverged_seeds, result.complete_seeds) == ([2], [0, 1])
    assert result.mean("online_accuracy").mean == pytest.approx(0.3)
    assert "2 (1 diverged)" in text_of([result])


def test_seeds_that_were_stopped_with_a_diverged_one_are_not_called_diverged(tmp_path: Path) -> None:
    (together,) = RunPlan("random_label_mnist", ("upgd",), None, {}, {}, (0, 1, 2)).runs(tmp_path)
    (alone,) = RunPlan("random_label_mnist", ("upgd",), None, {}, {}, (2,)).runs(tmp_path)
    together.record.begin(together.head)
    together.record.add([{"seed": seed, "task": 1, "online_accuracy": 0.1} for seed in together.seeds])
    together.record.end(diverged="the loss of seed 1 is not finite", diverged_seeds=[1])
    (result,) = results_of([together])
    assert (result.diverged_seeds, result.stopped_seeds, result.complete_seeds) == ([1], [0, 2], [])
    assert "0 (1 diverged, 2 stopped with it)" in text_of([result])
    alone.record.begin(alone.head)
    alone.record.add([{"seed": 2, "task": task, "online_accuracy": 0.5} for task in (1, 2)])
    alone.record.end()
    (result,) = results_of([together, alone])
    assert (result.diverged_seeds, result.stopped_seeds, result.complete_seeds) == ([1], [0], [2])
    assert result.mean("online_accuracy").mean == pytest.approx(0.5)


def test_the_best_of_settings_is_one_with_the_fewest_diverged_seeds(tmp_path: Path) -> None:
    plan = RunPlan("random_label_mnist", ("crelu",), None, {}, {"lr": (0.01, 0.1, 1.0)}, (0, 1))
    values = {0.01: (0.2, 0.3), 0.1: (0.3, 0.4), 1.0: (0.9, None)}  # None: diverged
    runs = plan.runs(tmp_path)
    for run in runs:
        value = values[run.settings.lr][run.seeds[0]]
        run.record.begin(run.head)
        run.record.add([{"seed": run.seeds[0], "task": 1, "online_accuracy": value or 0.1}])
        run.record.end(**({} if value else {"diverged": "the loss is nan"}))
    found = results_of(runs)
    assert best_results(found, DISPLAY)["crelu"].settings.lr == 0.1
    assert best_results(found[::-1], DISPLAY)["crelu"].settings.lr == 0.1
    assert best_results([each for each in found if each.diverged_seeds], DISPLAY)["crelu"].settings.lr == 1.0


def text_of(found: list[MethodResults], width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(comparison_table(found, DISPLAY, width))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_shows_means_and_intervals(found: list[MethodResults]) -> None:
    text = text_of(found)
    for result, own in zip(found, VALUES, strict=True):
        (row,) = (row for row in text.splitlines() if f"│ {result.label} " in row)
        mean = scipy.stats.sem(own.mean(1)) * scipy.stats.t.ppf(0.975, 2)
        assert f"{own[:, 0].mean():.1%} ± " in row
        assert f"{own.mean():.1%} ± {mean:.1%}" in row
        assert "30.0% ± " in row


@pytest.mark.parametrize("width", [60, 40])
def test_the_table_has_a_line_for_each_figure_in_a_narrow_terminal(found: list[MethodResults], width: int) -> None:
    wide, narrow = text_of(found), text_of(found, width)
    cells = [cell.strip() for line in wide.splitlines() if line.startswith("│") for cell in line.strip("│").split("│")]
    lines = [line.strip() for line in narrow.splitlines()]
    assert max(map(len, lines)) <= width
    assert len(cells) == 2 * 6
    for cell in cells:
        assert any(line.endswith(cell) for line in lines), cell


def test_pictures_need_only_one_result(found: list[MethodResults]) -> None:
    for shown in (found, found[:1]):
        file = io.BytesIO()
        write_picture(shown, DISPLAY, file)
        assert file.getvalue().startswith(b"\x89PNG")


def test_the_headline_follows_from_the_values(found: list[MethodResults], tmp_path: Path) -> None:
    ends = [first_and_last(result, DISPLAY)[1].mean for result in found]
    assert headline(found[:1], DISPLAY) == f"In the end: backprop {ends[0]:.1%}"
    methods = ("backprop", "continual_backprop")
    for fall, expected in (
        (0.2, "Backprop stops learning."),
        (0.12, "Backprop learns less and less."),
    ):  # guessing: 0.1
        runs = RunPlan("random_label_mnist", methods, None, {}, {}, (7,)).runs(tmp_path / str(fall))
        for run in runs:
            run.record.begin(run.head)
            for task in range(5):
                kept = 0.9 if run.method == "continual_backprop" else 0.9 - fall * task
                run.record.add([{"seed": 7, "task": task + 1, "online_accuracy": kept}])
            run.record.end()
        assert headline(results_of(runs), DISPLAY) == f"{expected} Continual backprop keeps learning."


def headline_of(folder: Path, ends: dict[str, float], start: float = 0.9) -> str:
    """The headline for methods that start at the same accuracy."""
    runs = RunPlan("random_label_mnist", tuple(ends), None, {}, {}, (0,)).runs(folder)
    for run in runs:
        run.record.begin(run.head)
        run.record.add([{"seed": 0, "task": 1, "online_accuracy": start}])
        run.record.add([{"seed": 0, "task": 2, "online_accuracy": ends[run.method]}])
        run.record.end()
    return headline(results_of(runs), DISPLAY)


def test_the_headline_names_all_methods_that_end_as_well(tmp_path: Path) -> None:
    main = {"backprop": 0.1, "continual_backprop": 0.88}
    also = {"layer_norm": 0.9, "shrink_and_perturb": 0.89, "l2": 0.6}
    text = headline_of(tmp_path / "a", main | also)
    assert text == "Backprop stops learning. Layer norm, Shrink and Perturb and continual backprop keep learning."
    many = {"l2_init": 0.92, "redo": 0.91, "l2": 0.93, "layer_norm": 0.9, "shrink_and_perturb": 0.89}
    text = headline_of(tmp_path / "b", main | many)
    assert text.endswith("L2, L2 Init, ReDo, continual backprop and 2 others keep learning.")


def test_the_headline_has_the_best_last_values_if_continual_backprop_gets_worse_too(tmp_path: Path) -> None:
    text = headline_of(tmp_path, {"backprop": 0.5, "continual_backprop": 0.8, "l2": 0.85, "redo": 0.6})
    assert text == "In the end: L2 85.0%, continual backprop 80.0%, ReDo 60.0%, backprop 50.0%"


def test_a_tuning_run_with_one_seed_is_not_the_best_of_settings(tmp_path: Path) -> None:
    cls = "random_label_mnist"
    runs = RunPlan(cls, ("crelu",), None, {"lr": 0.1}, {}, (0, 1)).runs(tmp_path)
    runs += RunPlan(cls, ("crelu",), None, {"lr": 1.0}, {}, (100,)).runs(tmp_path)
    for run in runs:
        run.record.begin(run.head)
        run.record.add([{"seed": run.seeds[0], "task": 1, "online_accuracy": run.settings.lr * 0.9}])
        run.record.end()
    assert best_results(results_of(runs), DISPLAY)["crelu"].settings.lr == 0.1
