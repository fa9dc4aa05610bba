"""The picture of a comparison: the main metric over time, beside dead units, rank and weights, with 95% intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .axis_limits import Points, band_limits, value_limits
from .display import Display, Metric
from .line_labels import LineEnd, label_ends, labels_height, labels_width, wrap_label
from .method_names import MAIN_METHODS
from .method_styles import COLOURS, shade
from .picture_headline import headline
from .plot_layout import LEFT, WIDTH, add_panel, choose_ticks, new_figure, save, short_number
from .summary import MethodResults

STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1, 1, 1, 1, 1)))
MAX_DISTINCT_BANDS = 4  # number of overlapping bands that can still be told apart
_BIG, _SMALL = 10.5, 9.0  # font sizes of labels in the main panel and in the others
_TITLE, _GAP, _EDGE = 0.62, 0.8, 0.2  # inches above a small panel, between columns, at the right edge
_LEAST_SMALL, _LEAST_BIG = 1.3, 3.6


@dataclass(frozen=True)
class Curve:
    """A method's curve in one panel."""

    result: MethodResults
    colour: str
    style: object
    xs: list[float]
    raw: list[float]
    mean: list[float]
    half: list[float]

    @property
    def points(self) -> Points:
        """Its means and half-widths of intervals, then the unsmoothed means."""
        return [*self.band, *((value, 0.0) for value in self.raw)]

    @property
    def band(self) -> Points:
        """Its means and half-widths of intervals."""
        return list(zip(self.mean, self.half, strict=True))

    def label(self, metric: Metric, scale: float, characters: int) -> str:
        """The label at its right end."""
        colon = ":" if "," in self.result.label else ""  # separates the value from a setting such as "lr 0.01"
        return wrap_label(f"{self.result.label}{colon} {metric.text(self.mean[-1] / scale)}", characters)


def write_picture(
    results: list[MethodResults], display: Display, file: IO[bytes], panels: int = 4, note: str = ""
) -> None:
    """Write the picture as PNG.

    Args:
        results: what to compare.
        display: what to show.
        file: where to write.
        panels: maximum number of metrics.
        note: a further sentence for the explanation.
    """
    save(draw_comparison(results, display, panels, note), file)


def draw_comparison(results: list[MethodResults], display: Display, panels: int = 4, note: str = "") -> Figure:
    """The figure that `write_picture` writes."""
    results = [result for result in results if result.complete_seeds]
    present = [metric for metric in display.others if any(result.has(metric.name) for result in results)]
    metrics = [display.main, *present][:panels]
    curves = [_curves(results, display, metric) for metric in metrics]
    sentences = [f"{display.about(results[0].settings)}.", *seeds_in_words(results), *([note] if note else [])]
    return _draw(headline(results, display), sentences, metrics, curves, display)


def seeds_in_words(results: list[MethodResults]) -> list[str]:
    """Sentences about the seeds and the bands."""
    seeds = sorted({seed for result in results for seed in result.complete_seeds})
    fewest = min(len(result.complete_seeds) for result in results)
    several = any(len(result.complete_seeds) > 1 for result in results)
    return [f"{_seeds(seeds, fewest)}.", *(["Bands: 95% intervals."] if several else [])]


def _seeds(seeds: list[int], fewest: int) -> str:
    """The seeds as text.

    Args:
        seeds: those of all curves.
        fewest: the smallest number of seeds of a curve.

    >>> _seeds([3], 1), _seeds([0, 1, 2], 3), _seeds([0, 2], 2), _seeds([0, 1, 2], 2)
    ('Seed 3', 'Mean over 3 seeds, 0 to 2', 'Mean over 2 seeds: 0, 2', 'Mean over 2 to 3 seeds, 0 to 2')
    """
    if len(seeds) == 1:
        return f"Seed {seeds[0]}"
    unbroken = seeds == list(range(seeds[0], seeds[-1] + 1))
    which = f", {seeds[0]} to {seeds[-1]}" if unbroken else f": {', '.join(map(str, seeds))}"
    several = f"{fewest} to {len(seeds)}" if fewest < len(seeds) else f"{len(seeds)}"
    return f"Mean over {several} seeds{which}"


def _curves(results: list[MethodResults], display: Display, metric: Metric) -> list[Curve]:
    """The curves of a panel. Variants of one method share a hue and differ in shade and dash."""
    scale = 100.0 if metric.percent else 1.0
    curves = []
    for method in dict.fromkeys(result.method for result in results):
        variants = [result for result in results if result.method == method]
        for number, result in enumerate(variants):
            if result.has(metric.name):
                xs, values = result.curve(metric.name, display.x, display.smooth)
                _, raw = result.curve(metric.name, display.x)
                means = [[scale * value.mean for value in each] for each in (raw, values)]
                halves = [scale * (value.half or 0.0) for value in values]
                colour = shade(COLOURS[method], number, len(variants))
                curves.append(
                    Curve(result, colour, STYLES[number % len(STYLES)], xs, raw=means[0], mean=means[1], half=halves)
                )
    return curves


def _draw(
    headline: str,
    explanation: list[str],
    metrics: list[Metric],
    curves: list[list[Curve]],
    display: Display,
) -> Figure:
    """The main panel on the left; the others on the right, together as high as the main one."""
    scales = [100.0 if metric.percent else 1.0 for metric in metrics]
    labels = [
        [curve.label(metric, scale, 22 if i == 0 else 30) for curve in own]
        for i, (metric, scale, own) in enumerate(zip(metrics, scales, curves, strict=True))
    ]
    sizes = [_BIG, *(_SMALL for _ in metrics[1:])] if len(metrics) > 2 else [_BIG] * len(metrics)
    high = [max(_LEAST_SMALL, labels_height(own, _SMALL)) for own in labels[1:]]
    body = max(_LEAST_BIG, sum(high) + _TITLE * (len(high) - 1), labels_height(labels[0], _BIG))
    figure, _ = new_figure(headline, explanation, body)
    left_room = labels_width(labels[0], _BIG)
    if not high:
        places = [(LEFT, 0.0, min(WIDTH - LEFT - left_room - _EDGE, 10.0), body)]
    else:
        right_room = max(labels_width(own, sizes[1]) for own in labels[1:])
        free = WIDTH - LEFT - left_room - _GAP - right_room - _EDGE
        big = 0.56 * free if len(high) > 1 else free / 2
        places = [(LEFT, 0.0, big, body)]
        each = (body - _TITLE * (len(high) - 1)) / len(high)
        for i in range(len(high)):
            bottom = body - (i + 1) * each - i * _TITLE
            places.append((LEFT + big + left_room + _GAP, bottom, free - big, each))
    for i, (metric, place) in enumerate(zip(metrics, places, strict=True)):
        axes = add_panel(figure, *place, metric.title, 12.5 if sizes[i] == _BIG else 11)
        lowest = i == 0 or i == len(metrics) - 1
        _fill_panel(axes, curves[i], labels[i], display, metric, sizes[i], xlabel=display.x if lowest else "")
    return figure


def _fill_panel(
    axes: Axes, curves: list[Curve], labels: list[str], display: Display, metric: Metric, size: float, xlabel: str
) -> None:
    main = metric is display.main
    crowded = len(curves) > MAX_DISTINCT_BANDS  # then unsmoothed means are not drawn
    points = [point for curve in curves for point in (curve.band if crowded else curve.points)]
    bounds = band_limits(points, metric)
    for order, curve in enumerate(curves):
        draw_curve(
            axes,
            curve,
            bounds,
            thin=not main or crowded,
            order=order,
            crowded=crowded,
        )
    axes.set_xlabel(xlabel)
    axes.tick_params(labelsize=size if size == _SMALL else 10.5)
    chance = display.chance if main else None
    scale_axes(axes, metric, points, chance, unbounded=main and display.higher_is_better)
    if main and display.chance is not None:
        show_chance(axes, display)
    if curves:
        right = max(curve.xs[-1] for curve in curves)
        low, high = axes.get_ylim()
        ends = [
            LineEnd(min(max(curve.mean[-1], low), high), text, curve.colour)  # a diverged run ends outside of the panel
            for curve, text in zip(curves, labels, strict=True)
        ]
        label_ends(axes, right, ends, size)


def draw_curve(
    axes: Axes,
    curve: Curve,
    bounds: tuple[float, float],
    *,
    thin: bool,
    order: int,
    crowded: bool,
    marked: bool = True,
) -> None:
    """Draw the mean with its band, cut off at ``bounds``, and, if it is smoothed, the unsmoothed mean faintly behind
    it.
    """
    above = 3.0 + order / 100 + (curve.result.method in MAIN_METHODS)
    few = marked and len(curve.xs) <= 20
    if curve.raw != curve.mean and not crowded:  # noise that all methods share would hide the trend
        axes.plot(curve.xs, curve.raw, color=curve.colour, alpha=0.22, linewidth=1.0, zorder=2)
    axes.plot(
        curve.xs,
        curve.mean,
        color=curve.colour,
        linestyle=curve.style,
        linewidth=1.7 if thin else 2.4,
        marker="o" if few else "",
        markersize=3 if thin else 4.5,
        zorder=above,
    )
    low = [max(a - b, bounds[0]) for a, b in zip(curve.mean, curve.half, strict=True)]
    high = [min(a + b, bounds[1]) for a, b in zip(curve.mean, curve.half, strict=True)]
    axes.fill_between(curve.xs, low, high, color=curve.colour, alpha=0.09 if crowded else 0.15, lw=0, zorder=1.5)


def scale_axes(
    axes: Axes, metric: Metric, points: Points, chance: float | None = None, *, unbounded: bool = False
) -> None:
    """Set the limits of the vertical axis (see `value_limits`; ``chance`` as in a display) and the numbers of both."""
    if metric.percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{round(value, 6):g}%")
    at = None if chance is None else chance * (100.0 if metric.percent else 1.0)
    limits = value_limits(points, metric, chance=at, unbounded=unbounded)
    if limits is not None:
        axes.set_ylim(*limits)
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    choose_ticks(axes.xaxis, integer=True)


def show_chance(axes: Axes, display: Display, *, labelled: bool = True) -> None:
    """A dotted line at the value that guessing reaches."""
    at = (100.0 if display.main.percent else 1.0) * (display.chance or 0.0)
    axes.axhline(at, color="#888888", linestyle=(0, (2, 3)), linewidth=1.2, zorder=1)
    if not labelled:
        return
    text = f"guessing {at:g}{'%' if display.main.percent else ''}"
    where = (axes.get_xlim()[0], at)
    axes.annotate(text, where, (4, -4), textcoords="offset points", va="top", color="#666666", fontsize=9.5)
