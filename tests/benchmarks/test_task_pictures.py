"""Heat maps and the picture of two axes: values from the records, and no text overlaps or is cut off."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from matplotlib.collections import PathCollection

from benchmarks import experiments
from benchmarks.method_styles import LABELS
from benchmarks.run import Run
from benchmarks.summary import results_of
from benchmarks.task_pictures import HEAT_MAPS, TWO_AXES
from benchmarks.task_pictures.matrices import mean_matrix, newest_task, old_tasks
from tests.benchmarks.test_comparison_picture import check
from tests.helpers.finished_runs import planned_runs


def write(run: Run, tasks: int, apart: float) -> Run:
    """A record whose accuracies depend on method and seed; ``apart``: difference between methods."""
    number = type(run.settings).methods.index(run.method)
    run.record.begin(run.head)
    rows = []
    for after in range(1, tasks + 1):
        matrix = {
            f"accuracy_on/{t}": 0.9 - apart * number - 0.02 * (after - t) - 0.01 * run.seeds[0]
            for t in range(1, after + 1)
        }
        rows.append({"seed": run.seeds[0], "task": after, "accuracy": sum(matrix.values()) / after, **matrix})
    run.record.add(rows)
    run.record.end()
    return run


def results(out: Path, experiment: str, methods: str, tasks: int, apart: float, seeds: int = 2):
    given = {"scenario": "task"} if experiment == "split_digits" else {"tasks": tasks}
    runs = planned_runs(out, experiment, methods, seeds, **given)
    return results_of([write(run, tasks, apart) for run in runs]), experiments.display(experiment)


def test_values_are_those_of_the_records(tmp_path):
    (result,), _ = results(tmp_path, "permuted_tasks", "backprop", 5, 0.0)
    matrix = mean_matrix(result)
    assert matrix[4][1] == pytest.approx(0.9 - 0.06 - 0.005)
    assert math.isnan(matrix[1][2])
    assert newest_task(result, 1.0).values == pytest.approx([0.9, 0.89])
    assert old_tasks(result).values == pytest.approx([0.85, 0.84])
    assert old_tasks(result).mean.mean == pytest.approx(0.845)


@pytest.mark.parametrize(
    ("experiment", "tasks", "apart"),
    [("split_digits", 5, 0.0), ("permuted_tasks", 20, 0.02)],  # all points at one place; apart
)
def test_no_text_overlaps_or_is_cut_off(tmp_path, experiment, tasks, apart):
    methods = " ".join(experiments.settings_class(experiment).methods)
    found, display = results(tmp_path, experiment, methods, tasks, apart)
    for picture in (HEAT_MAPS, TWO_AXES):
        figure = picture.draw(found, display)
        assert picture.title in [text.get_text() for text in figure.texts]
        if picture is TWO_AXES:
            for axes in figure.axes:
                shown = {text.get_text() for text in axes.texts}
                assert shown == {LABELS[result.method] for result in found}
                seeds = [each for each in axes.collections if isinstance(each, PathCollection)]
                assert all(len(each.get_offsets()) == 2 for each in seeds)
                squares = [line for line in axes.lines if line.get_marker() == "s"]
                assert len(squares) == sum(result.method in display.told_the_task for result in found)
        check(figure)


def test_a_single_method_and_seed_can_be_drawn(tmp_path):
    found, display = results(tmp_path, "permuted_tasks", "ewc", 2, 0.0, seeds=1)
    for picture in display.further:
        check(picture.draw(found, display))
