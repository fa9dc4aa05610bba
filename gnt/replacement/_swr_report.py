"""What `SWR.report` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gnt._utils.tables import align_columns

COUNTS = 5  # per parameter: chosen, chosen twice in a row, without utility, members without any utility, chosen so far


@dataclass(frozen=True)
class ParameterRow:
    """What was chosen of one parameter.

    Attributes:
        name: its name.
        size: its number of weights.
        chosen: weights chosen at the latest selection.
        repeated: those of them that were chosen at the selection before, too.
        without_utility: those of them whose utility was exactly 0, as that of weights without gradient.
        skipped: members of which nothing could be chosen, because all utilities were 0; 0 or 1 for one network.
        replaced: weights chosen so far, repetitions included.
    """

    name: str
    size: int
    chosen: int
    repeated: int
    without_utility: int
    skipped: int
    replaced: int


@dataclass(frozen=True)
class SWRReport:
    """Summary of all parameters; printing it shows a table.

    Attributes:
        steps: number of steps so far.
        next_selection: number of steps until the next selection.
        parameters: a row for each parameter.
    """

    steps: int
    next_selection: int
    parameters: tuple[ParameterRow, ...]

    def __str__(self) -> str:
        header = ("parameter", "weights", "chosen", "repeated", "without utility", "skipped", "replaced")
        rows = [
            (r.name, *map(str, (r.size, r.chosen, r.repeated, r.without_utility, r.skipped, r.replaced)))
            for r in self.parameters
        ]
        first = f"after {self.steps} steps; the next selection is in {self.next_selection}"
        return "\n".join([first, *align_columns([header, *rows])])


def swr_report(steps: int, ahead: int, names: Sequence[str], sizes: Sequence[int], counts: Tensor) -> SWRReport:
    """The report of counts (parameters, `COUNTS`)."""
    rows = (ParameterRow(name, size, *row) for name, size, row in zip(names, sizes, counts.tolist(), strict=True))
    return SWRReport(steps, ahead, tuple(rows))
