"""The picture: what continual backprop adds to a step, over width and over batch size."""

from __future__ import annotations

from typing import IO, Any

from benchmarks.palette import COLOURS
from benchmarks.plots import canvas, label_ends, save

PANELS = {"width": "Width of two hidden layers (batch 64)", "batch": "Batch size (784-2000x3-10)"}
SERIES = {
    "cbp_sgd": ("CBPSGD", "SGD"),
    "cbp_adam": ("CBPAdam, fused", "Adam, fused"),
}
COMPILED = ", compiled"


def has_series(record: dict[str, Any]) -> bool:
    """Whether there is something to draw."""
    return any(_points(record, panel, *names) for panel in PANELS for names in SERIES.values())


def _points(record: dict[str, Any], panel: str, entrant: str, against: str) -> list[tuple[int, dict[str, Any]]]:
    """x and figure of each workload of the panel, from left to right."""
    found = [
        (workload[panel], one)
        for workload in record["workloads"]
        if workload["picture"] == panel
        for one in workload["figures"]
        if (one["entrant"], one["against"]) == (entrant, against)
    ]
    return sorted(found, key=lambda point: point[0])


def draw(record: dict[str, Any], file: IO[bytes]) -> None:
    """As PNG: a line for each optimizer, eager and compiled, with the quartiles, and the targets as short bars."""
    panels = [panel for panel in PANELS if any(_points(record, panel, *names) for names in SERIES.values())]
    figure, all_axes = canvas("", "", panels=len(panels))
    for panel, axes in zip(panels, all_axes, strict=True):
        _panel(record, panel, axes)
    save(figure, file)


def _panel(record: dict[str, Any], panel: str, axes: Any) -> None:
    raise NotImplementedError
