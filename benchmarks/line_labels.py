"""Labels beside the right ends of lines, moved apart vertically so that they do not overlap."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from matplotlib.axes import Axes

from .plot_layout import text_width

_SPACING = 1.22  # a line's height, in font sizes
_APART = 0.35  # between labels, in font sizes
OFFSET, _LEADER = 12.0, 3.0  # points: from a line's end to its label; shift above which a leader line is drawn


@dataclass(frozen=True)
class LineEnd:
    """The height of a line's right end, and its label."""

    y: float
    text: str
    colour: str


def wrap_label(text: str, characters: int) -> str:
    r"""A label of several lines: the number stays with the word before it, and lines break after commas where possible.

    >>> wrap_label("continual backprop 86.1%", 18), wrap_label("L2 12.0%", 18)
    ('continual\nbackprop 86.1%', 'L2 12.0%')
    >>> wrap_label("backprop, lr 0.001: 0.925", 22)
    'backprop,\nlr 0.001: 0.925'
    >>> wrap_label("HAT, importance gradient_activation 73.0%", 22)
    'HAT,\nimportance\ngradient_activation 73.0%'
    """
    *words, value = text.split(" ")
    glued = " ".join([*words[:-1], f"{words[-1]}\u00a0{value}"]) if words else text
    lines: list[str] = []
    for part in glued.replace(", ", ",\n").split("\n"):
        if lines and len(lines[-1]) + 1 + len(part) <= characters:
            lines[-1] += f" {part}"
        else:
            broken = max(map(len, part.split(" ")), default=0) > 2 * characters  # other words stay whole
            lines += textwrap.wrap(part, characters, break_on_hyphens=False, break_long_words=broken)
    return "\n".join(lines).replace("\u00a0", " ")


def labels_width(texts: list[str], size: float) -> float:
    """Width in inches of the labels to the right of a panel."""
    return OFFSET / 72 + max(
        (text_width(line, size, bold=True) for text in texts for line in text.split("\n")), default=0.0
    )


def labels_height(texts: list[str], size: float) -> float:
    """Height in inches of the labels, stacked."""
    return sum(_label_height(text, size) for text in texts) / 72


def _label_height(text: str, size: float) -> float:
    return size * (_SPACING * (text.count("\n") + 1) + _APART)


def label_ends(axes: Axes, x: float, ends: list[LineEnd], size: float, off: float = OFFSET) -> None:
    """Write each label ``off`` points to the right of its line's end. Labels that would overlap are moved apart, and a
    thin line connects each with its line's end.
    """
    if not ends:
        return
    box = axes.get_window_extent().transformed(axes.figure.dpi_scale_trans.inverted())
    bottom, top = axes.get_ylim()
    points = box.height * 72 / (top - bottom)
    ends = sorted(ends, key=lambda end: (end.y, end.text))
    wanted = [(end.y - bottom) * points for end in ends]
    placed = spread_labels(wanted, [_label_height(end.text, size) for end in ends], box.height * 72)
    for end, at, place in zip(ends, wanted, placed, strict=True):
        moved = place - at
        if abs(moved) > _LEADER:
            line = {"arrowstyle": "-", "color": end.colour, "alpha": 0.55, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 2}
            axes.annotate(
                "",
                (x, end.y),
                (off - 2, moved),
                textcoords="offset points",
                arrowprops=line,
                annotation_clip=False,
            )
        axes.annotate(
            end.text,
            (x, end.y),
            (off, moved),
            textcoords="offset points",
            va="center",
            color=end.colour,
            fontsize=size,
            fontweight="bold",
            linespacing=_SPACING - 0.1,
            annotation_clip=False,
        )


def spread_labels(wanted: list[float], heights: list[float], whole: float) -> list[float]:
    """Centres as close as possible to the wanted ones (sorted), such that labels of these heights do not overlap.

    Labels that would overlap form a block, which is centred at the mean of the wanted positions of its members.

    >>> spread_labels([10.0, 11.0, 50.0], [4.0, 4.0, 4.0], 60.0)
    [8.5, 12.5, 50.0]
    """
    blocks: list[list[int]] = []
    lows: list[float] = []
    for i in range(len(wanted)):
        blocks.append([i])
        lows.append(_lower_edge(blocks[-1], wanted, heights, whole))
        while len(blocks) > 1 and lows[-2] + sum(heights[k] for k in blocks[-2]) > lows[-1]:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
            lows[-2:] = [_lower_edge(blocks[-1], wanted, heights, whole)]
    placed = []
    for block, low in zip(blocks, lows, strict=True):
        for k in block:
            placed.append(low + heights[k] / 2)
            low += heights[k]
    return placed


def _lower_edge(block: list[int], wanted: list[float], heights: list[float], whole: float) -> float:
    """Lower edge of a block of labels, kept within 0 to ``whole`` where possible."""
    offsets, total = [], 0.0
    for k in block:
        offsets.append(total + heights[k] / 2)
        total += heights[k]
    low = sum(wanted[k] - offset for k, offset in zip(block, offsets, strict=True)) / len(block)
    edge = heights[block[0]] / 2  # half a label may be outside
    return max(-edge, min(low, whole + edge - total))
