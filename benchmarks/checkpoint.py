"""Reading a checkpoint: a file that is damaged, or that belongs to something else, is reported in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import START_OVER_HINT, CannotRun
from .saved_values import all_of, anything, fields, integer, known_fields, mapping, number, text

_CONTENT = all_of(
    fields(versions=mapping(text), seconds=number(0), record=integer(1), job=mapping(anything)),
    known_fields(wall_seconds=number(0)),
)


def read(file: Path) -> dict[str, Any]:
    """The content of a checkpoint: versions, seconds, size of the record, and the state of the training loop ("job").

    Raises:
        CannotRun: it cannot be read, or has other content.
    """
    import torch

    with reading(file):
        content: dict[str, Any] = torch.load(file, weights_only=True)
        _CONTENT("", content)
    return content


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Report errors as those of the checkpoint. Whatever loads its content raises them: damaged ones raise anything."""
    try:
        yield
    except CannotRun:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".splitlines()[0].split())
        raise CannotRun(f"Cannot read {file} ({reason:.300}). {START_OVER_HINT}") from error
