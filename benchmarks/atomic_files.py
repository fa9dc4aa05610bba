"""Files that are either the old ones or the new ones, whole, at whatever moment the process is killed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from benchmarks.errors import START_OVER_HINT, CannotRun


def write_atomically(file: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file beside ``file``, then rename it into place."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)  # mkstemp's files are for the owner alone
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise CannotRun(f"Cannot write {file}: {error}. What was there before is unchanged.") from error


def write_json(file: Path, content: Any) -> None:
    """``content`` as JSON, atomically."""
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(file, lambda stream: stream.write(text.encode()))


def read_json(file: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CannotRun(f"Cannot read {file}: {error}. {START_OVER_HINT}") from error
