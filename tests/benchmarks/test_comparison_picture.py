"""Pictures are looked at: no label covers another or is cut off, whatever is compared."""

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
from tests.helpers.finished_runs import REGRESSION, planned, written

DIGITS = "random_label_mnist"
ALL = " ".join(experiments.settings_class(DIGITS).methods)


def texts_of(drawing: Figure) -> list[tuple[str, object]]:
    """All that is written, and where."""
    drawing.canvas.draw()
    unseen: set[Text] = set()  # ticks that matplotlib has at hand, but outside of what is shown
    for axes in drawing.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high:
                    unseen |= {tick.label1, tick.label2}
    shown = [text for text in drawing.findobj(Text) if text.get_text().strip() and text.get_visible()]
    return [(text.get_text(), text.get_window_extent()) for text in shown if text not in unseen]


def check(drawing: Figure) -> None:
    """Nothing is cut off at an edge, and nothing is written over something else."""
    whole = drawing.bbox
    texts = texts_of(drawing)
    for text, box in texts:
        assert box.x0 >= whole.x0, f"{text} is cut off on the left"
        assert box.y0 >= whole.y0, f"{text} is cut off below"
        assert box.x1 <= whole.x1, f"{text} is cut off on the right"
        assert box.y1 <= whole.y1, f"{text} is cut off above"
    for (one, a), (two, b) in itertools.combinations(texts, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= 1 or high <= 1, f"{one!r} and {two!r} overlap by {wide:.0f} x {high:.0f} pixels"
    pyplot.close(drawing)


CASES = [
    ("backprop continual_backprop", {}, 0.9),
    ("backprop continual_backprop", {}, 0.2),  # ends near the guessing result
    ("continual_backprop", {}, 1.0),
    (ALL, {}, 0.9),  # all end at the same place
    ("backprop continual_backprop", {"lr": [0.01, 0.003, 0.001], "replacement_rate": [1e-3, 1e-4]}, 0.7),
]


@pytest.mark.parametrize(("methods", "grid", "keep"), CASES, ids=[f"{m} {g} {k}" for m, g, k in CASES])
def test_nothing_is_cut_off_or_covered(methods: str, grid: dict[str, list[float]], keep: float, tmp_path: Path) -> None:
    runs = [written(run, keep=keep) for run in planned(tmp_path, DIGITS, methods, seeds=2, grid=grid)]
    display = experiments.display(DIGITS)
    for panels in (1, 2, 4):
        check(draw_comparison(results_of(runs), display, panels, note="A further sentence, " * 9))


def test_nothing_of_a_family_is_cut_off_or_covered(tmp_path: Path) -> None:
    activations = ["relu", "sigmoid", "tanh", "elu", "leaky_relu", "swish", "linear"]
    grid = {"activation": activations, "lr": [0.01, 0.001]}
    methods = "backprop l2 shrink_and_perturb continual_backprop"
    runs = [written(run) for run in planned(tmp_path, REGRESSION, methods, grid=grid)]
    (family,) = families(problems(runs))
    assert isinstance(family, Family)
    assert [problem.values["activation"] for problem in family.problems] == ["relu", *sorted(activations[1:])]
    drawing = family_picture.draw_family(family)
    assert len(drawing.axes) == 14
    assert len({axes.get_ylim() for axes in drawing.axes}) == 1  # to one scale
    check(drawing)
    (fewer,) = families(problems([run for run in runs if run.settings.activation in activations[:3]]))
    check(family_picture.draw_family(fewer))


def test_a_return_below_zero_is_in_the_picture(tmp_path: Path) -> None:
    runs = planned(tmp_path, "slippery_ant", "backprop continual_backprop")
    for run in runs:
        written(run)
        rows = run.rows()
        run.delete_results()
        run.record.begin(run.head)
        run.record.add({**row, "mean_return": -100 * row["mean_return"]} for row in rows)
        run.finish(1.0)
    drawing = draw_comparison(results_of(runs), experiments.display("slippery_ant"))
    low, high = drawing.axes[0].get_ylim()
    assert low < -45
    assert high > low
    check(drawing)


def test_a_picture_is_the_same_each_time(tmp_path: Path) -> None:
    runs = [written(run) for run in planned(tmp_path, DIGITS, ALL)]
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        save(draw_comparison(results_of(runs), experiments.display(DIGITS)), file)
    assert files[0].getvalue() == files[1].getvalue()


@given(st.lists(st.tuples(st.floats(-20, 120), st.floats(1, 8)), max_size=10))
def test_labels_stand_in_order_and_apart(pairs: list[tuple[float, float]]) -> None:
    wanted = sorted(each for each, _ in pairs)
    heights = [height for _, height in pairs]
    placed = line_labels.spread_labels(wanted, heights, 100.0)
    assert len(placed) == len(wanted)
    for (a, b), (high_a, high_b) in zip(itertools.pairwise(placed), itertools.pairwise(heights), strict=True):
        assert b - a >= (high_a + high_b) / 2 - 1e-6
    for place, height in zip(placed, heights, strict=True):
        assert place - height / 2 >= -8
        assert place + height / 2 <= 108 + 1e-6


def test_labels_with_room_stay_where_their_lines_end() -> None:
    assert line_labels.spread_labels([10.0, 30.0, 50.0], [5.0, 5.0, 5.0], 100.0) == [10.0, 30.0, 50.0]
