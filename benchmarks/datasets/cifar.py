"""CIFAR-100 from its Python files, which torchvision downloads; torchvision is not needed to read them."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import CannotRun
from .cache import cached_tensors, file_stamps
from .labelled_images import LabelledImages, Splits

PUBLISHED: Final = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}
"""MD5 of the files in cifar-100-python.tar.gz, as torchvision checks them."""


def cifar100(folder: str | Path, checksums: Mapping[str, str] = PUBLISHED) -> Splits:
    """CIFAR-100: 50,000 training and 10,000 test images of (3, 32, 32), 100 classes (the fine labels).

    Args:
        folder: the folder ``cifar-100-python``, or the one that contains it.
        checksums: MD5 of the two files.

    Raises:
        CannotRun: the files are missing, or are not the published ones.
    """
    return _cifar100(Path(folder), tuple(checksums.items()))


@cache
def _cifar100(folder: Path, checksums: tuple[tuple[str, str], ...]) -> Splits:
    place = folder if (folder / "train").is_file() else folder / "cifar-100-python"
    files = [place / part for part, _ in checksums]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise CannotRun(
            f"There is no CIFAR-100 in {folder}: missing {', '.join(missing)}. To get it, unpack "
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz there, or: pip install torchvision; "
            f'python -c "from torchvision.datasets import CIFAR100; CIFAR100({str(folder)!r}, download=True)"'
        )

    def make() -> dict[str, Tensor]:
        tensors = {}
        for file, (part, checksum) in zip(files, checksums, strict=True):
            tensors[f"{part}_images"], tensors[f"{part}_labels"] = _read(file, checksum)
        return tensors

    tensors = cached_tensors("cifar-100", [file_stamps(files), checksums], make)
    return Splits(*(LabelledImages(tensors[f"{part}_images"], tensors[f"{part}_labels"]) for part in ("train", "test")))


def _read(file: Path, checksum: str) -> tuple[Tensor, Tensor]:
    content = file.read_bytes()
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != checksum:
        raise CannotRun(f"{file} is not the published file: its MD5 is {got}, not {checksum}. Copy it there again.")
    held = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    images = torch.from_numpy(held["data"]).view(-1, 3, 32, 32)
    return images, torch.tensor(held["fine_labels"], dtype=torch.int64)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays, lists, dicts and strings only: a pickle can name any function."""

    def find_class(self, module: str, name: str) -> Any:
        """The callables needed for arrays; others raise `CannotRun`."""
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")} or (
            name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray")
        ):
            return super().find_class(module, name)
        raise CannotRun(f"The CIFAR-100 file refers to {module}.{name}, which is not allowed.")
