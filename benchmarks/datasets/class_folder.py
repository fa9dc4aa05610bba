"""A folder with one array a class, as Continual ImageNet is kept: read class by class, since all are some
gigabytes.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.datasets.labelled_images import LabelledImages, Splits
from benchmarks.errors import CannotRun

CHECKSUMS: Final = "SHA256SUMS"


class ClassFolder:
    """The classes of a folder: one ``.npy`` file each, uint8 of (images, height, width, 3) or (images, 3, height,
    width), in the order of their names (of numbers: their values). The first ``train`` images of a class are to
    learn from, the next ``test`` ones to test on.

    Where the folder has a file SHA256SUMS (``sha256sum *.npy > SHA256SUMS``), what is read is verified.

    Args:
        folder: of the arrays.
        train, test: images of a class.

    Raises:
        CannotRun: no such folder, or no arrays in it; in `splits` a file of another form or with another checksum.
    """

    def __init__(self, folder: str | Path, train: int = 600, test: int = 100) -> None:
        self.folder, self.train, self.test = Path(folder), train, test
        files = self.folder.glob("*.npy") if self.folder.is_dir() else ()
        self.files = sorted(files, key=lambda file: (_number(file), file.stem))
        if not self.files:
            raise CannotRun(
                f"{self.folder} must be a folder with one .npy file a class, each uint8 of ({train + test}, 32, 32, 3) "
                f"or ({train + test}, 3, 32, 32), and holds none. Continual ImageNet is such a folder: ImageNet scaled "
                "down to 32 x 32 (image-net.org), 700 images of each class."
            )
        self._checksums = self._read_checksums()

    def __len__(self) -> int:
        return len(self.files)

    def splits(self, label: int) -> Splits:
        """The images of one class, labelled with its place in the order of classes."""
        images = self._read(self.files[label])
        return Splits(
            *(
                LabelledImages(part.contiguous(), torch.full((len(part),), label))
                for part in (images[: self.train], images[self.train : self.train + self.test])
            )
        )

    def _read(self, file: Path) -> Tensor:
        try:
            content = file.read_bytes()
            expected = self._checksums.get(file.name)
            if expected is not None and hashlib.sha256(content).hexdigest() != expected:
                raise CannotRun(f"{file} does not have the checksum in {CHECKSUMS}: copy it there again.")
            array = np.load(io.BytesIO(content), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CannotRun(f"Cannot read {file}: {error}. Copy it there again.") from error
        images = torch.from_numpy(np.ascontiguousarray(array)) if array.dtype == np.uint8 else None
        needed = self.train + self.test
        if images is None or images.ndim != 4 or 3 not in (images.shape[1], images.shape[3]) or len(images) < needed:
            raise CannotRun(
                f"{file} must hold uint8 of ({needed} or more, height, width, 3) or ({needed} or more, 3, height, "
                f"width), got {array.dtype} of {array.shape}."
            )
        return images if images.shape[1] == 3 else images.permute(0, 3, 1, 2)

    def _read_checksums(self) -> dict[str, str]:
        file = self.folder / CHECKSUMS
        if not file.exists():
            return {}
        try:
            lines = [line.split() for line in file.read_text().splitlines() if line.strip()]
            return {name.lstrip("*"): checksum for checksum, name in lines}
        except (OSError, ValueError) as error:
            raise CannotRun(f"Cannot read {file}: {error}. sha256sum *.npy > {CHECKSUMS} makes it.") from error


def _number(file: Path) -> tuple[int, int]:
    """Files named by numbers first, in the order of the numbers."""
    return (0, int(file.stem)) if file.stem.isdecimal() else (1, 0)
