"""MNIST's IDX files: Fashion-MNIST as packaged by Debian, or any folder with four such files, gzipped or not.

An IDX file consists of two zero bytes, the type (8: unsigned byte), the number of dimensions, the size of each
dimension as four bytes, most significant first, and the values.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ..errors import CannotRun
from .cache import cached_tensors, file_stamps
from .labelled_images import LabelledImages, Splits

DEBIAN: Final = Path("/usr/share/datasets/fashion-mnist")
NAMES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

FASHION_MNIST: Final = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of Fashion-MNIST's files, uncompressed, so that any compression is accepted."""


def fashion_mnist() -> Splits:
    """Fashion-MNIST from Debian's package: 60,000 training and 10,000 test images of (1, 28, 28), 10 classes.

    Raises:
        CannotRun: the package is not installed, or its files are not the published ones.
    """
    if not DEBIAN.is_dir():
        raise CannotRun(
            f"Fashion-MNIST is not in {DEBIAN}. To install it on Debian or Ubuntu: apt install dataset-fashion-mnist. "
            f"On other systems, give a folder that contains {', '.join(NAMES)} (gzipped or not)."
        )
    return idx_folder(DEBIAN, FASHION_MNIST)


@cache
def _idx_folder(folder: Path, published: tuple[tuple[str, str], ...]) -> Splits:
    files = {name: _find(folder, name) for name in NAMES}
    checksums = dict(published)

    def make() -> dict[str, Tensor]:
        return {name: read_idx(file, checksums.get(name)) for name, file in files.items()}

    tensors = cached_tensors("idx", [file_stamps(list(files.values())), published], make)
    parts = []
    for images, labels in (NAMES[:2], NAMES[2:]):
        if tensors[images].ndim != 3 or tensors[images].shape[:1] != tensors[labels].shape:
            raise CannotRun(
                f"{folder}: {images} and {labels} must have shapes (N, height, width) and (N,), got "
                f"{tuple(tensors[images].shape)} and {tuple(tensors[labels].shape)}."
            )
        parts.append(LabelledImages(tensors[images][:, None], tensors[labels].long()))
    return Splits(*parts)


def idx_folder(folder: str | Path, checksums: Mapping[str, str] | None = None) -> Splits:
    """Images from a folder with four files named as MNIST's, with or without ``.gz``.

    Args:
        folder: contains train-images-idx3-ubyte, train-labels-idx1-ubyte and the two files of t10k.
        checksums: SHA-256 of the uncompressed files, by name without ``.gz``; files without one are not verified.

    Raises:
        CannotRun: a file is missing, is not an IDX file of unsigned bytes, or does not match its checksum.
    """
    return _idx_folder(Path(folder), tuple((checksums or {}).items()))


def read_idx(file: Path, checksum: str | None = None) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped if its name ends in .gz."""
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise CannotRun(f"Cannot read {file}: {error}. Copy it there again.") from error
    if checksum is not None and (got := hashlib.sha256(content).hexdigest()) != checksum:
        raise CannotRun(
            f"{file} is not the published file: the SHA-256 of its content is {got}, not {checksum}. "
            "Install or copy it again."
        )
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:3] != b"\0\0\x08" or not dimensions or len(content) < start:
        raise CannotRun(
            f"{file} is not an IDX file of unsigned bytes: it begins with {content[:4].hex(' ') or 'nothing'}."
        )
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    if len(content) - start != math.prod(shape):
        raise CannotRun(
            f"{file} should have {' x '.join(map(str, shape))} bytes after its header, but has "
            f"{len(content) - start}. Copy it there again."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].view(shape).clone()


def _find(folder: Path, name: str) -> Path:
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    raise CannotRun(
        f"{folder} must contain {name} or {name}.gz, as published for MNIST and Fashion-MNIST, and has neither."
    )
