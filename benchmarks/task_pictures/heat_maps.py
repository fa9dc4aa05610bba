"""A heat map for each method: the accuracy on each task after each task."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ..comparison_picture import seeds_in_words
from ..display import Display
from ..method_styles import COLOURS, LABELS
from ..plot_layout import LEFT, WIDTH, add_panel, new_figure
from ..summary import MethodResults
from .matrices import best_of_each, mean_matrix

_COLUMNS = 5
_GAP, _ABOVE, _BAR = 0.35, 0.52, 0.9  # inches between columns, above a panel, and for the colour bar
_MOST_NUMBERS = 6  # tasks up to which values are written into the fields
_DARK = 60.0  # fields with larger values have light text


def draw_heat_maps(results: list[MethodResults], display: Display) -> Figure:
    """A panel for each method, all with the same scale; mean over seeds."""
    chosen, note = best_of_each(results, display)
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    side = (WIDTH - LEFT - _BAR - (_COLUMNS - 1) * _GAP) / _COLUMNS
    body = rows * side + (rows - 1) * _ABOVE
    words = ["A row for each task that was learned, a column for each task that is tested."]
    about = f"{display.about(chosen[0].settings)}."
    sentences = [about, *words, *(text for text in seeds_in_words(chosen) if not text.startswith("Bands")), *note]
    figure, _ = new_figure("Accuracy on each task after each task", sentences, body)
    image = None
    for number, result in enumerate(chosen):
        row, column = divmod(number, columns)
        place = (LEFT + column * (side + _GAP), body - side - row * (side + _ABOVE), side, side)
        axes = add_panel(figure, *place, "", 11)
        axes.set_title(LABELS[result.method], fontsize=11, pad=6, color=COLOURS[result.method])
        image = _fill(axes, mean_matrix(result), first=column == 0, lowest=number + columns >= len(chosen))
    right = LEFT + columns * side + (columns - 1) * _GAP
    bar = add_panel(figure, right + 0.25, body - side, 0.14, side, "", 9)
    assert image is not None
    figure.colorbar(image, cax=bar, format="%.0f%%")
    bar.tick_params(labelsize=9)
    return figure


def _fill(axes: Axes, matrix: list[list[float]], *, first: bool, lowest: bool) -> AxesImage:
    percent = [[100 * value for value in row] for row in matrix]
    tasks = len(percent)
    axes.grid(visible=False)
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="equal")
    step = 1 if tasks <= 10 else 5
    ticks = [i for i in range(tasks) if i == 0 or (i + 1) % step == 0]
    axes.set_xticks(ticks, [str(i + 1) for i in ticks])
    axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    axes.tick_params(labelsize=9, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if first:
        axes.set_ylabel("after task", fontsize=9.5)
    if lowest:
        axes.set_xlabel("accuracy on task", fontsize=9.5)
    if tasks <= _MOST_NUMBERS:
        for i, row in enumerate(percent):
            for j, value in enumerate(row):
                if value == value:
                    colour = "white" if value > _DARK else "black"
                    axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=9.5)
    return image
