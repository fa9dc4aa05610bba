"""The picture: how much longer a step takes with continual backprop, over width and over batch size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..method_styles import COLOURS, LABELS
from ..plot_layout import canvas, save
from .table import ratio_text

PANELS = {
    "width": ("784-n-n-10, batch 64", "width n of the hidden layers"),
    "batch": ("784-2000-2000-2000-10", "batch size"),
}
SERIES = {"cbp_sgd": ("CBPSGD", "SGD"), "cbp_adam": ("CBPAdam", "Adam, fused")}
MODES = {"": "kernels", ", torch operations": "no kernels"}
TALL = 3.0  # ratio above which the axis is logarithmic
_DASHES: Any = (0, (2.2, 1.6))

Points = list[tuple[int, dict[str, Any]]]


def has_series(record: dict[str, Any]) -> bool:
    """Whether the record contains anything to draw."""
    return bool(_panels(record))


def draw(record: dict[str, Any], file: IO[bytes]) -> None:
    """Write the picture as PNG: a line for each optimizer, by kernels, and by torch operations (dashed).

    Bands: quartiles; short bars: targets.
    """
    panels = _panels(record)
    figure, all_axes = canvas(headline(record), _explanation(record), panels=len(panels))
    figure.subplots_adjust(right=0.85, wspace=0.62)
    ratios = [ratio for panel, axes in zip(panels, all_axes, strict=True) for ratio in _draw_lines(record, panel, axes)]
    for panel, axes in zip(panels, all_axes, strict=True):
        _scale(axes, 0.96 * min(1.0, *ratios), 1.1 * max(1.2, *ratios))
        _label(axes, _ends(record, panel))
    save(figure, file)


def headline(record: dict[str, Any]) -> str:
    """The range of the drawn ratios in one sentence; of those by kernels if there are any."""
    for suffix, way in MODES.items():
        ratios = [
            one["ratio"]
            for panel in _panels(record)
            for entrant, against in SERIES.values()
            for _, one in _points(record, panel, entrant + suffix, against)
        ]
        if ratios:
            least, most = ratio_text(min(ratios)), ratio_text(max(ratios))
            return f"With {way}, a CBP step takes {least} to {most} times as long"
    return ""


def _explanation(record: dict[str, Any]) -> str:
    about = record["about"]
    threads = about["threads"]
    busy = "; the machine was busy" if (record["quietness"] or {}).get("reasons") else ""
    time = "Processor time" if record["settings"]["clock"] == "cpu" else "Time"
    return (
        f"{time} of a step, divided by that of the same step without replacement: CBPSGD by SGD, CBPAdam by "
        f"torch's fused Adam\n{about['hardware']['processor']}, {threads} thread{'s' if threads > 1 else ''}, "
        f"torch {about['versions']['torch']}; medians, bands: quartiles, bars: targets{busy}"
    )


def _panels(record: dict[str, Any]) -> list[str]:
    lines = [
        (panel, entrant + suffix, peer) for panel in PANELS for entrant, peer in SERIES.values() for suffix in MODES
    ]
    return list(dict.fromkeys(line[0] for line in lines if _points(record, *line)))


def _points(record: dict[str, Any], panel: str, entrant: str, against: str) -> Points:
    """Position and ratio of each workload of the panel, from left to right."""
    found = [
        (workload[panel], one)
        for workload in record["workloads"]
        if workload["picture"] == panel
        for one in workload["figures"]
        if (one["entrant"], one["against"]) == (entrant, against)
    ]
    return sorted(found, key=lambda point: point[0])


def _lines(record: dict[str, Any], panel: str) -> Iterator[tuple[str, str, Points]]:
    """Series, mode and points of each line in the panel."""
    for key, (entrant, against) in SERIES.items():
        for suffix, way in MODES.items():
            points = _points(record, panel, entrant + suffix, against)
            if points:
                yield key, way, points


def _draw_lines(record: dict[str, Any], panel: str, axes: Axes) -> list[float]:
    """Draw the lines. Returns the values that have to be inside the axes."""
    title, xlabel = PANELS[panel]
    axes.set(title=title, xlabel=xlabel)
    axes.set_xscale("log", base=2)
    axes.axhline(1.0, color="#555555", linewidth=1.2, zorder=1)
    ratios: list[float] = []
    xs: set[int] = set()
    for key, way, points in _lines(record, panel):
        x, y = [at for at, _ in points], [one["ratio"] for _, one in points]
        style: Any = {"linestyle": _DASHES, "linewidth": 1.8} if way == "no kernels" else {}
        axes.plot(x, y, color=COLOURS[key], marker="o", markersize=4.5, zorder=3, **style)
        lows, highs = [one["low"] for _, one in points], [one["high"] for _, one in points]
        axes.fill_between(x, lows, highs, color=COLOURS[key], alpha=0.13, linewidth=0)
        _draw_targets(axes, points, COLOURS[key])
        ratios += y
        xs |= set(x)
    ticks = sorted(xs)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(ticks[0] / 1.35, ticks[-1] * 1.35)
    return ratios


def _ends(record: dict[str, Any], panel: str) -> list[tuple[float, str, str]]:
    """Height, label and colour of each line's right end."""
    return [
        (points[-1][1]["ratio"], f"{LABELS[key]}, {way}", COLOURS[key]) for key, way, points in _lines(record, panel)
    ]


def _draw_targets(axes: Axes, points: Points, colour: str) -> None:
    """A short bar at each target."""
    for at, one in points:
        if one["target"] is not None:
            axes.plot([at / 1.18, at * 1.18], [one["target"]] * 2, color=colour, linewidth=1.6, zorder=2, alpha=0.75)


def _scale(axes: Axes, low: float, high: float) -> None:
    """The same scale in every panel; logarithmic if ratios are large."""
    if high > TALL:
        axes.set_yscale("log")
        ticks = [tick for tick in (0.5, 0.7, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32) if low <= tick <= high]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low, high)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))


def _label(axes: Axes, ends: list[tuple[float, str, str]], apart: float = 0.06) -> None:
    """Write each line's name beside its end, at least ``apart`` (fraction of the axis) from the next."""
    height = axes.transAxes.inverted()
    lowest = 0.0
    for y, text, colour in sorted(ends):
        at = float(height.transform(axes.transData.transform((1.0, y)))[1])
        place = max(at, lowest)
        lowest = place + apart
        axes.annotate(
            text,
            (1.0, place),
            (6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
            fontsize=9.5,
            annotation_clip=False,
        )
