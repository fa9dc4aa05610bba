"""Limits of axes and bands in pictures."""

from pathlib import Path

from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks import experiments
from benchmarks.axis_limits import value_limits
from benchmarks.comparison_picture import draw_comparison
from benchmarks.display import Metric
from benchmarks.summary import results_of
from tests.helpers.finished_runs import planned_runs

DIGITS = "random_label_mnist"
WEIGHTS = Metric("", "")


def drawn(folder: Path, weights: tuple[float, float]) -> list[Axes]:
    """The panels for two methods with such weights at the end, two seeds with accuracies of 0.9 and 1."""
    runs = planned_runs(folder, DIGITS, "backprop continual_backprop")
    for run, end in zip(runs, weights, strict=True):
        run.record.begin(run.head)
        for task in range(1, 5):
            size = end if task > 2 else 0.1
            run.record.add(
                {"seed": seed, "task": task, "online_accuracy": 0.9 + seed / 10, "weight_magnitude": size * (1 + seed)}
                for seed in run.seeds
            )
        run.finish(1.0)
    figure = draw_comparison(results_of(runs), experiments.display(DIGITS))
    pyplot.close(figure)
    return list(figure.axes)


def test_a_diverged_run_does_not_set_the_scale_of_its_panel(tmp_path: Path) -> None:
    accuracy, weights = drawn(tmp_path, (0.2, 3e25))
    assert weights.get_ylim()[0] == 0
    assert 0.3 < weights.get_ylim()[1] < 10
    assert all(text.xy[1] <= weights.get_ylim()[1] for text in weights.texts)  # type: ignore[attr-defined]
    assert any("e+25" in text.get_text() for text in weights.texts)
    for band in accuracy.collections:
        (path,) = band.get_paths()
        assert path.vertices[:, 1].min() >= 0
        assert path.vertices[:, 1].max() <= 100  # mean 95%, half-width 64%


def test_axes_start_near_values_that_are_alike() -> None:
    share = Metric("", "", percent=True)
    assert value_limits([(94.0, 0.5), (99.0, 0.1)], share) == (89.8, 100.2)
    assert value_limits([(94.0, 0.5), (99.0, 0.1)], share, chance=10.0) == (-2.0, 102.0)
    assert value_limits([(94.0, 50.0), (99.0, 0.1)], share) == (-2.0, 102.0)
    assert value_limits([(-1.0, 0.0), (60.0, 1.0)], share) == (-2.0, 102.0)
    low, high = value_limits([(-15.0, 0.0), (60.0, 1.0)], share) or (0.0, 0.0)
    assert low < -20
    low, high = value_limits([(0.020, 0.0), (0.030, 0.001)], WEIGHTS) or (0.0, 0.0)
    assert 0.017 < low < 0.02 < 0.031 < high < 0.033
    assert value_limits([(1.0, 0.0), (5000.0, 1.0)], WEIGHTS, unbounded=True) == (0.0, 5001.0 * 1.05)
    assert value_limits([(0.0, 0.0)], WEIGHTS) is None
