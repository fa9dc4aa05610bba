"""Pictures of experiments that test all tasks after each: heat maps of the accuracies, and memory beside plasticity.

matrices            the accuracies on all tasks after each task, from rows
heat_maps           a heat map for each method
two_axes            accuracy on the newest task and on all old tasks, a point for each method
point_labels        labels beside points, where they overlap nothing
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..display import Display, FurtherPicture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _heat_maps(results: list[Any], display: Display) -> Figure:
    from .heat_maps import draw_heat_maps

    return draw_heat_maps(results, display)


def _two_axes(results: list[Any], display: Display) -> Figure:
    from .two_axes import draw_two_axes

    return draw_two_axes(results, display)


ACCURACIES = "accuracy_on"
"""The metric that a record must have, "accuracy_on/t" for each task t so far."""

HEAT_MAPS = FurtherPicture("heat-maps", "Accuracy on each task after each task", _heat_maps)
TWO_AXES = FurtherPicture("two-axes", "Accuracy on the newest task and on all old tasks", _two_axes)
