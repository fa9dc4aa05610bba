"""A cache for prepared data: made once from the raw files, stored, and verified when read.

    <cache>/<name>-<key>.pt             the tensors
    <cache>/<name>-<key>.pt.sha256      checksum of this file, written last
    <cache>/<name>-<key>.lock           held while the file is written or read

The cache folder is the one in the environment variable GNT_DATA_CACHE, otherwise ``gnt`` in the user's cache folder
($XDG_CACHE_HOME or ~/.cache). Its files can be deleted at any time. The key is a hash of what the data were made from,
so that they are prepared again when raw files change. If several processes need the same data, one prepares them and
the others wait.
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

from ..atomic_files import write_atomically
from ..errors import CannotRun

VARIABLE: Final = "GNT_DATA_CACHE"
_FORM: Final = 1  # increase when the preparation changes, so that older files are not read


def folder() -> Path:
    """The cache folder."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gnt"


def cached_tensors(name: str, source: Any, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The result of ``make()``, from the cache if it is there.

    Args:
        name: name of the data; part of the file's name.
        source: what the data are made from, as JSON; a different source gets a different file.
        make: reads the raw data.

    Raises:
        CannotRun: the cache cannot be written. Exceptions of ``make`` are passed on.
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
    except (OSError, NotImplementedError) as error:  # NotImplementedError: no file locks
        raise CannotRun(
            f"Cannot write prepared data to {file.parent} ({error}). Set the environment variable {VARIABLE} to "
            "another folder."
        ) from error
    return kept


def file_stamps(files: list[Path]) -> list[list[Any]]:
    """Raw files as the ``source`` of `cached_tensors`: path, size and modification time of each."""
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _checksum_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    # if the process is killed before the end, there is no checksum rather than a wrong one
    _checksum_file(file).unlink(missing_ok=True)
    content = io.BytesIO()
    torch.save(tensors, content)
    line = f"{hashlib.sha256(content.getbuffer()).hexdigest()}  {file.name}\n"
    write_atomically(file, lambda stream: stream.write(content.getbuffer()))
    write_atomically(_checksum_file(file), lambda stream: stream.write(line.encode()))


def _read(file: Path) -> dict[str, Tensor] | None:
    """The tensors; None if they must be made."""
    try:
        expected = _checksum_file(file).read_text().partition(" ")[0]
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        expected, content = "", b""
    if hashlib.sha256(content).hexdigest() != expected:
        warnings.warn(f"The prepared data in {file} do not match their checksum; preparing them again.", stacklevel=3)
        return None
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), weights_only=True)
    return tensors
