"""Files that are replaced as a whole: after a crash, either the old or the new content is there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from .errors import START_OVER_HINT, CannotRun
from .saved_values import Kind, anything, parse_json


def write_atomically(file: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a temporary file beside ``file`` with ``write(stream)``, then rename it to ``file``.

    Raises:
        CannotRun: the file cannot be written, or is a device or folder; an existing one is unchanged.
    """
    if file.exists() and not file.is_file():
        raise CannotRun(f"Cannot write {file}: it is not a regular file.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)  # mkstemp creates files that only the owner can read
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save hides that a disk is full
        if not isinstance(cause, OSError):
            raise
        raise CannotRun(f"Cannot write {file}: {cause}. Existing files were not changed.") from error


def remove_temporary_files(file: Path) -> None:
    """Remove temporary files that `write_atomically` has left, because its process was killed; none may be running."""
    for left in file.parent.glob(f".{file.name}-*"):
        left.unlink(missing_ok=True)


def write_json(file: Path, content: Any) -> None:
    """Write ``content`` as JSON, atomically."""
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(file, lambda stream: stream.write(text.encode()))


def read_json(file: Path, kind: Kind = anything) -> Any:
    """Read a JSON file.

    Raises:
        CannotRun: the file cannot be read, is not JSON, or its content is not of the ``kind``.
    """
    try:
        content = parse_json(file.read_bytes())
        kind("", content)
        return content
    except (OSError, ValueError) as error:
        raise CannotRun(f"Cannot read {file}: {error}. {START_OVER_HINT}") from error
