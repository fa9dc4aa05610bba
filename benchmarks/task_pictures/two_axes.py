"""Memory beside plasticity: accuracy on the newest task and on all old tasks, a point for each method."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..comparison_picture import seeds_in_words
from ..display import Display
from ..method_styles import COLOURS, LABELS
from ..plot_layout import LEFT, WIDTH, add_panel, choose_ticks, new_figure, text_width
from ..summary import MethodResults
from .matrices import Spread, best_of_each, newest_task, old_tasks
from .point_labels import Box, place_labels

_HIGH, _GAP, _EDGE = 4.8, 0.55, 0.3
_SIZE = 10.0  # of labels
_MARKER = 7.0  # half the side of the square that a mean with its marker takes, in points
_MARGIN = 0.16  # share of the range that is left free on each side
_FAR = 14.0  # distance in points from which a line connects a label with its point


def draw_two_axes(results: list[MethodResults], display: Display) -> Figure:
    """Two panels: on the left the newest task's accuracy is a mean over all tasks, on the right over the last ones."""
    chosen, note = best_of_each(results, display)
    words = [
        "Up: accuracy on all tasks but the last, at the end.",
        "To the right: accuracy on a task right after it was learned.",
        *(["Squares: told the task."] if any(result.method in display.told_the_task for result in chosen) else []),
        *(["Small dots: seeds."] if any(len(result.complete_seeds) > 1 for result in chosen) else []),
    ]
    bars = [text.replace("Bands", "Bars") for text in seeds_in_words(chosen)]
    sentences = [f"{display.about(chosen[0].settings)}.", *words, *bars, *note]
    figure, _ = new_figure("Accuracy on the newest task and on all old tasks", sentences, _HIGH)
    wide = (WIDTH - LEFT - _GAP - _EDGE) / 2
    old = [old_tasks(result) for result in chosen]
    late = f"{display.last:.0%}"
    for number, (share, which) in enumerate(
        ((1.0, "mean over all tasks"), (display.last, f"last {late} of the tasks"))
    ):
        newest = [newest_task(result, share) for result in chosen]
        title = f"Newest task: {which}"
        axes = add_panel(figure, LEFT + number * (wide + _GAP), 0.0, wide, _HIGH, title, 12.5)
        axes.set_xlabel("accuracy on the newest task")
        if number == 0:
            axes.set_ylabel("accuracy on all old tasks, at the end")
        _fill(axes, [result.method for result in chosen], newest, old, display.told_the_task)
    return figure


def _fill(
    axes: Axes, methods: Sequence[str], xs: Sequence[Spread], ys: Sequence[Spread], squares: Sequence[str]
) -> None:
    axes.grid(visible=True, axis="both")
    for method, x, y in zip(methods, xs, ys, strict=True):
        colour = COLOURS[method]
        axes.scatter([100 * v for v in x.values], [100 * v for v in y.values], s=9, color=colour, alpha=0.35, lw=0)
        axes.errorbar(
            100 * x.mean.mean,
            100 * y.mean.mean,
            xerr=_bars(x),
            yerr=_bars(y),
            fmt="s" if method in squares else "o",
            color=colour,
            markersize=8,
            elinewidth=1.3,
            zorder=4,
        )
    axes.set_xlim(*_limits(xs))
    axes.set_ylim(*_limits(ys))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}%")
        choose_ticks(axis, nbins=7)
    axes.tick_params(labelsize=10)
    _label(axes, methods, xs, ys)


def _bars(spread: Spread) -> tuple[tuple[float], tuple[float]]:
    """Lengths of the interval's bars below and above the mean, in percent, within 0 to 100%."""
    mean, half = spread.mean.mean, spread.mean.half or 0.0
    return (100 * min(half, mean),), (100 * min(half, 1.0 - mean),)


def _limits(spreads: Sequence[Spread]) -> tuple[float, float]:
    """A range that includes all seeds and intervals, with a margin for labels."""
    bars = [(100 * each.mean.mean, _bars(each)) for each in spreads]
    low = min(*(mean - below for mean, ((below,), _) in bars), *(100 * v for each in spreads for v in each.values))
    high = max(*(mean + above for mean, (_, (above,)) in bars), *(100 * v for each in spreads for v in each.values))
    margin = _MARGIN * max(high - low, 2.0)
    return low - margin, high + margin


def _label(axes: Axes, methods: Sequence[str], xs: Sequence[Spread], ys: Sequence[Spread]) -> None:
    """Names beside the points, away from points and intervals."""
    box = axes.get_window_extent().transformed(axes.figure.dpi_scale_trans.inverted())
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    across, up = 72 * box.width / (right - left), 72 * box.height / (top - bottom)

    points, obstacles = [], []
    for x, y in zip(xs, ys, strict=True):
        at = (across * (100 * x.mean.mean - left), up * (100 * y.mean.mean - bottom))
        wide, high = across * 100 * (x.mean.half or 0.0), up * 100 * (y.mean.half or 0.0)
        points.append(at)
        obstacles.append(Box(at[0] - _MARKER, at[1] - _MARKER, at[0] + _MARKER, at[1] + _MARKER))
        obstacles.append(Box(at[0] - wide, at[1] - 1.5, at[0] + wide, at[1] + 1.5))
        obstacles.append(Box(at[0] - 1.5, at[1] - high, at[0] + 1.5, at[1] + high))
    sizes = [(72 * text_width(LABELS[method], _SIZE, bold=True) + 2, 1.25 * _SIZE) for method in methods]
    whole = Box(3.0, 3.0, 72 * box.width - 3.0, 72 * box.height - 3.0)
    for method, (point_x, point_y), (low_x, low_y, high_x, high_y) in zip(
        methods, points, place_labels(points, sizes, obstacles, whole), strict=True
    ):
        centre = ((low_x + high_x) / 2, (low_y + high_y) / 2)
        nearest = (min(max(point_x, low_x), high_x), min(max(point_y, low_y), high_y))
        if abs(nearest[0] - point_x) + abs(nearest[1] - point_y) > _FAR:
            axes.plot(
                [left + point_x / across, left + nearest[0] / across],
                [bottom + point_y / up, bottom + nearest[1] / up],
                color=COLOURS[method],
                linewidth=0.8,
                alpha=0.55,
                zorder=3,
            )
        axes.text(
            left + centre[0] / across,
            bottom + centre[1] / up,
            LABELS[method],
            ha="center",
            va="center",
            color=COLOURS[method],
            fontsize=_SIZE,
            fontweight="bold",
        )
