"""Plain-text tables."""

from __future__ import annotations

from collections.abc import Sequence


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line for each row: the first column left-aligned, the others right-aligned, two spaces between.

    Args:
        rows: cells of each row; all rows have the same number of cells.

    >>> for line in align_columns([("group", "units"), ("0", "16"), ("conv1", "128")]):
    ...     print(line)
    group  units
    0         16
    conv1    128
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
