"""The record of a run: a file of JSON lines that is only appended to.

It has a head (what the run is), a row for each completed part, and an end. After a crash all lines up to the last
checkpoint are complete. A resumed run removes what follows and writes it again, so that the final bytes equal those of
an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .errors import START_OVER_HINT, CannotRun
from .saved_values import parse_json, shown
from .training import Row

_LAST = 2**16  # bytes at the end of a file that the last line is usually within
_END = b'{"end"'  # how the last line of a finished record begins


class Record:
    """A run's file of rows."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def begin(self, head: dict[str, Any]) -> None:
        """Start a new record with this head."""
        self.cut(0)
        self._append([head])

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows: all of them or, if that fails, none."""
        self._append(rows)

    def end(self, **more: Any) -> None:
        """Write the last line. ``more``: "diverged", why the run ended early, and "diverged_seeds", with which seeds;
        "plasticity", what the plasticity check says.
        """
        self._append([{"end": len(self.lines()) - 1, **more}])

    @property
    def size(self) -> int:
        """Number of bytes written and synced."""
        return self.file.stat().st_size

    def cut(self, size: int) -> None:
        """Remove everything after the first ``size`` bytes, which are complete lines."""
        with self._writing(), self.file.open("ab+") as stream:
            if stream.tell() < size:
                raise CannotRun(f"{self.file} is shorter than its checkpoint says. {START_OVER_HINT}")
            stream.seek(max(0, size - 1))
            if size and stream.read(1) != b"\n":
                raise CannotRun(f"{self.file} has no end of a line where its checkpoint says. {START_OVER_HINT}")
            stream.truncate(size)

    def _append(self, lines: Iterable[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, allow_nan=False, separators=(", ", ": ")) + "\n" for line in lines)
        with self._writing(), self.file.open("ab", buffering=0) as stream:
            before = stream.tell()
            rest = memoryview(text.encode())
            try:
                while rest:
                    rest = rest[stream.write(rest) :]
                os.fsync(stream.fileno())
            except OSError:  # on a full disk, part of a line may have been written
                with contextlib.suppress(OSError):
                    stream.truncate(before)
                raise

    @contextlib.contextmanager
    def _writing(self) -> Any:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise CannotRun(f"Cannot write {self.file}: {error}. Existing content was not changed.") from error

    def lines(self, size: int | None = None) -> list[Any]:
        """All complete lines: the head, the rows and, in a finished record, the end.

        Args:
            size: only those in the first ``size`` bytes; None: all.
        """
        parsed: list[Any] = []
        try:
            text = self.file.read_bytes()[:size]
            for line in text[: text.rfind(b"\n") + 1].splitlines():
                parsed.append(parse_json(line))
        except (OSError, ValueError) as error:
            where = f" line {len(parsed) + 1} of" if isinstance(error, ValueError) else ""
            raise CannotRun(f"Cannot read{where} {self.file}: {error}. {START_OVER_HINT}") from error
        return parsed

    def head(self) -> dict[str, Any] | None:
        """The first line; None if there is none."""
        try:
            with self.file.open("rb") as stream:
                line = stream.readline()
            return _head(line) if line.endswith(b"\n") else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise CannotRun(f"Cannot read {self.file}: {error}. {START_OVER_HINT}") from error

    @property
    def ended(self) -> bool:
        """Whether the last line is an end."""
        last = self._read(_last_line)
        return last.startswith(_END) and last.endswith(b"\n")

    @property
    def has_end(self) -> bool:
        """Whether any line is an end. If it is not the last, complete line, the record was changed."""
        return any(line.startswith(_END) for line in self._read(Path.read_bytes).splitlines())

    def _read(self, read: Callable[[Path], bytes]) -> bytes:
        """What ``read`` finds in the file; nothing if there is none."""
        try:
            return read(self.file)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            raise CannotRun(f"Cannot read {self.file}: {error}.") from error


def _last_line(file: Path) -> bytes:
    """The last line of a file, complete or not; nothing if the file is empty."""
    size, length = file.stat().st_size, _LAST
    with file.open("rb") as stream:
        while True:
            stream.seek(max(0, size - length))
            lines = stream.read().splitlines(keepends=True)
            if len(lines) > 1 or length >= size:
                return lines[-1] if lines else b""
            length *= 2


def _head(line: bytes) -> dict[str, Any]:
    head = parse_json(line)
    if not isinstance(head, dict):
        raise ValueError(f"it begins with {shown(head)}, not with the head of a record")
    return head
