"""The text in pictures: nothing overlaps or is cut off, whatever is compared."""

import io
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks import experiments, line_labels
from benchmarks.comparison_picture import draw_comparison
from benchmarks.plot_layout import save
from benchmarks.report import family_picture
from benchmarks.report.problems import Family, families, problems
from benchmarks.summary import results_of
from tests.helpers.finished_runs import REGRESSION, planned_runs, write_record

DIGITS = "random_label_mnist"
ALL = " ".join(experiments.settings_class(DIGITS).methods)


def texts_of(figure: Figure) -> list[tuple[str, object]]:
    """All visible texts and their bounding boxes."""
    figure.canvas.draw()
    unseen: set[Text] = set()  # matplotlib also has tick labels outside the visible range
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high:
                    unseen |= {tick.label1, tick.label2}
    shown = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    return [(text.get_text(), text.get_window_extent()) for text in shown if text not in unseen]


def check(figure: Figure) -> None:
    """No text is cut off at an edge, and no two texts overlap."""
    whole = figure.bbox
    texts = texts_of(figure)
    for text, box in texts:
        assert box.x0 >= whole.x0, f"{text} is cut off on the left"
        assert box.y0 >= whole.y0, f"{text} is cut off below"
        assert box.x1 <= whole.x1, f"{text} is cut off on the right"
        assert box.y1 <= whole.y1, f"{text} is cut off above"
    for (one, a), (two, b) in itertools.combinations(texts, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= 1 or high <= 1, f"{one!r} and {two!r} overlap by {wide:.0f} x {high:.0f} pixels"
    pyplot.close(figure)


CASES = [
    ("backprop continual_backprop", {}, 0.9),
    ("backprop continual_backprop", {}, 0.2),  # ends near the guessing result
    ("continual_backprop", {}, 1.0),
    (ALL, {}, 0.9),  # all end at the same value
    ("backprop continual_backprop", {"lr": [0.01, 0.003, 0.001], "replacement_rate": [1e-3, 1e-4]}, 0.7),
]


@pytest.mark.parametrize(("methods", "grid", "keep"), CASES, ids=[f"{m} {g} {k}" for m, g, k in CASES])
def test_texts_of_a_comparison_do_not_overlap(
    methods: str, grid: dict[str, list[float]], keep: float, tmp_path: Path
) -> None:
    runs = [write_record(run, keep=keep) for run in planned_runs(tmp_path, DIGITS, methods, seeds=2, grid=grid)]
    display = experiments.display(DIGITS)
    for panels in (1, 2, 4):
        check(draw_comparison(results_of(runs), display, panels, note="A further sentence, " * 9))


def test_texts_of_a_family_do_not_overlap(tmp_path: Path) -> None:
    activations = ["relu", "sigmoid", "tanh", "elu", "leaky_relu", "swish", "linear"]
    grid = {"activation": activations, "lr": [0.01, 0.001]}
    methods = "backprop l2 shrink_and_perturb continual_backprop"
    runs = [write_record(run) for run in planned_runs(tmp_path, REGRESSION, methods, grid=grid)]
    (family,) = families(problems(runs))
    assert isinstance(family, Family)
    assert [problem.values["activation"] for problem in family.problems] == ["relu", *sorted(activations[1:])]
    figure = family_picture.draw_family(family)
    assert len(figure.axes) == 14
    assert len({axes.get_ylim() for axes in figure.axes}) == 1  # to one scale
    check(figure)
    (fewer,) = families(problems([run for run in runs if run.settings.activation in activations[:3]]))
    check(family_picture.draw_family(fewer))
    (one_tuning,) = families(problems([run for run in runs if run.settings.lr == 0.01]))
    figure = family_picture.draw_family(one_tuning)
    assert len({round(axes.get_position().y0, 4) for axes in figure.axes}) == 2  # in two rows
    check(figure)


def test_negative_returns_are_visible(tmp_path: Path) -> None:
    runs = planned_runs(tmp_path, "slippery_ant", "backprop continual_backprop")
    for run in runs:
        write_record(run)
        rows = run.rows()
        run.delete_results()
        run.record.begin(run.head)
        run.record.add({**row, "mean_return": -100 * row["mean_return"]} for row in rows)
        run.finish(1.0)
    figure = draw_comparison(results_of(runs), experiments.display("slippery_ant"))
    low, high = figure.axes[0].get_ylim()
    assert low < -45
    assert high > low
    check(figure)


def test_pictures_are_reproducible(tmp_path: Path) -> None:
    runs = [write_record(run) for run in planned_runs(tmp_path, DIGITS, ALL)]
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        save(draw_comparison(results_of(runs), experiments.display(DIGITS)), file)
    assert files[0].getvalue() == files[1].getvalue()


@given(st.lists(st.tuples(st.floats(-20, 120), st.floats(1, 8)), max_size=10))
def test_labels_keep_their_order_and_do_not_overlap(pairs: list[tuple[float, float]]) -> None:
    wanted = sorted(each for each, _ in pairs)
    heights = [height for _, height in pairs]
    placed = line_labels.spread_labels(wanted, heights, 100.0)
    assert len(placed) == len(wanted)
    for (a, b), (high_a, high_b) in zip(itertools.pairwise(placed), itertools.pairwise(heights), strict=True):
        assert b - a >= (high_a + high_b) / 2 - 1e-6
    for place, height in zip(placed, heights, strict=True):
        assert place - height / 2 >= -8
        assert place + height / 2 <= 108 + 1e-6


def test_labels_with_enough_space_are_not_moved() -> None:
    assert line_labels.spread_labels([10.0, 30.0, 50.0], [5.0, 5.0, 5.0], 100.0) == [10.0, 30.0, 50.0]
