"""The heat map of a `TaskMatrix`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NUMBERS = 12  # tasks up to which values are written into the fields
_DARK = 0.6  # fields with larger shares of the range have light text


def draw_task_matrix(matrix: Tensor, names: Sequence[str], ax: Axes | None) -> Axes:
    """Draw the matrix into axes, or into those of a new figure."""
    import matplotlib.pyplot as plt

    if ax is None:
        size = 1.6 + 0.55 * min(len(names), 16)
        _, ax = plt.subplots(figsize=(size + 1.2, size), layout="constrained")
    measured = matrix[~matrix.isnan()]
    low = min(0.0, float(measured.min())) if len(measured) else 0.0
    high = max(1.0, float(measured.max())) if len(measured) else 1.0
    image = ax.imshow(matrix.numpy(), cmap="Blues", vmin=low, vmax=high)
    ax.set_xticks(range(len(names)), names, rotation=45 if max(map(len, names)) > 4 else 0)
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("accuracy on task")
    ax.set_ylabel("after training on task")
    if len(names) <= _MOST_NUMBERS:
        for i, row in enumerate(matrix.tolist()):
            for j, value in enumerate(row):
                if value == value:
                    color = "white" if (value - low) / (high - low) > _DARK else "black"
                    ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=color, fontsize=9)
    assert ax.figure is not None
    ax.figure.colorbar(image, ax=ax, label="accuracy")
    return ax
