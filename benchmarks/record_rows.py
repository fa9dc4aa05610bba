"""Checks of the rows of a record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .display import Display
from .errors import START_OVER_HINT, CannotRun
from .plasticity import VERDICTS_KIND
from .saved_values import all_of, fields, integer, known_fields, mapping, number, sequence, shown, text

MAX_X = 2**53  # tasks or steps; TensorBoard and pictures hold them exactly

_NUMBERS = mapping(number())
_END = all_of(
    fields(end=integer(0)), known_fields(diverged=text, diverged_seeds=sequence(integer(0)), plasticity=VERDICTS_KIND)
)


@contextlib.contextmanager
def damaged(file: Path, before: str = "") -> Iterator[None]:
    """Report ValueError as a damaged record; ``before``: text before its message."""
    try:
        yield
    except ValueError as error:
        raise CannotRun(f"{file} is damaged: {before}{error}. {START_OVER_HINT}") from error


def check_end(end: Any, rows: int | None = None) -> None:
    """Raise ValueError if ``end`` is not the last line of a record with that many rows (None: any number)."""
    _END("", end)
    if rows is not None and end["end"] != rows:
        raise ValueError(f"its end counts {end['end']} rows, there are {rows}")


def check_rows(rows: Sequence[Any], seeds: Sequence[int], display: Display) -> None:
    """Raise ValueError if one of ``rows`` is not a row of a run with these seeds."""
    for count, row in enumerate(rows, 1):
        try:
            _NUMBERS("", row)
        except ValueError as error:
            raise ValueError(f"row {count} contains other values than numbers: {error}") from None
        seed, x = row.get("seed"), row.get(display.x)
        if type(seed) is not int or seed not in seeds or type(x) is not int or not 0 <= x <= MAX_X:
            raise ValueError(
                f"row {count} is not a row of this run: it must have one of the seeds {shown(list(seeds))} and an "
                f"integer {display.x} from 0 to {MAX_X}, got {shown(row)}"
            )
        if display.main.name not in row:
            raise ValueError(f"row {count} is not a row of this run: it has no {display.main.name}, got {shown(row)}")


def check_same_rows(rows: Sequence[dict[str, float]], seeds: Sequence[int], display: Display) -> None:
    """Raise ValueError if the seeds of a complete run do not have the same rows, each with the same metrics."""
    shapes = row_shapes(rows, seeds, display)
    if not rows or any(shape != shapes[seeds[0]] for shape in shapes.values()):
        raise ValueError("its seeds do not have the same rows" if rows else "it has no rows")


def row_shapes(rows: Sequence[dict[str, float]], seeds: Sequence[int], display: Display) -> dict[int, list[Any]]:
    """For each seed: the x of each of its rows, and the names of its metrics."""
    shapes: dict[int, list[Any]] = {seed: [] for seed in seeds}
    for row in rows:
        shapes[int(row["seed"])].append((row[display.x], frozenset(row)))
    return shapes
