"""Prepared data: made once from the raw files, kept, and verified whenever it is read.

    <cache>/<name>-<key>.pt             the tensors
    <cache>/<name>-<key>.pt.sha256      their file's checksum, written last
    <cache>/<name>-<key>.lock           held while the file is made or read

The cache is the folder that the environment variable GNT_DATA_CACHE names, else ``gnt`` in the user's cache
folder ($XDG_CACHE_HOME or ~/.cache). All in it can be deleted at any time. The key is made from what the data
were made from, so that changed raw files are cached_tensors anew. Processes that need the same data at once wait for
the first of them to make it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock  # a dependency of torch
from torch import Tensor

from benchmarks.atomic_files import write_atomically
from benchmarks.errors import CannotRun

VARIABLE: Final = "GNT_DATA_CACHE"
_FORM: Final = 1  # raised when the same sources are cached_tensors differently, so that older files are not read


def folder() -> Path:
    """Where cached_tensors data are kept."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gnt"


def cached_tensors(name: str, source: Any, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What ``make()`` returns, from the cache when it was made before.

    Args:
        name: of the data, for people who look into the folder.
        source: what the data are made from, as JSON takes it: another source is another file.
        make: reads the raw data.

    Raises:
        CannotRun: the cache cannot be written; and what ``make`` raises.
    """
    key = hashlib.sha256(json.dumps([_FORM, source], sort_keys=True).encode()).hexdigest()[:12]
    file = folder() / f"{name}-{key}.pt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            kept = _read(file)
            if kept is None:
                kept = make()
                _write(file, kept)
    except (OSError, NotImplementedError) as error:  # filelock's word for a file system that has no locks
        raise CannotRun(
            f"Cannot keep cached_tensors data in {file.parent} ({error}). The environment variable {VARIABLE} names another "
            "folder."
        ) from error
    return kept


def file_stamps(files: list[Path]) -> list[list[Any]]:
    """Raw files as a source for `cached_tensors`: path, size and time of change of each."""
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _checksum_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    _checksum_file(file).unlink(missing_ok=True)  # so that killed in between, there is none, not one of another file
    content = io.BytesIO()
    torch.save(tensors, content)
    line = f"{hashlib.sha256(content.getbuffer()).hexdigest()}  {file.name}\n"
    write_atomically(file, lambda stream: stream.write(content.getbuffer()))
    write_atomically(_checksum_file(file), lambda stream: stream.write(line.encode()))


def _read(file: Path) -> dict[str, Tensor] | None:
    """The tensors; None where they must be made."""
    try:
        expected = _checksum_file(file).read_text().partition(" ")[0]
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        expected, content = "", b""
    if hashlib.sha256(content).hexdigest() != expected:
        warnings.warn(
            f"The cached_tensors data in {file} do not have their checksum any more; making them again.", stacklevel=3
        )
        return None
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), weights_only=True)
    return tensors
