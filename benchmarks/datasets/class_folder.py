"""A folder with one array per class, the format of Continual ImageNet. Classes are read one at a time, as all of them
are several gigabytes.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..errors import CannotRun
from .labelled_images import LabelledImages, Splits

CHECKSUMS: Final = "SHA256SUMS"


class ClassFolder:
    """The classes in a folder of ``.npy`` files, one per class: uint8 of (images, height, width, 3) or (images, 3,
    height, width). Classes are ordered by file name (numbers by value). The first ``train`` images of a class are for
    training, the next ``test`` ones for testing.

    If the folder contains a file SHA256SUMS (``sha256sum *.npy > SHA256SUMS``), files are verified when they are read.

    Args:
        folder: the folder of the arrays.
        train, test: number of training and test images of a class.

    Raises:
        CannotRun: the folder or arrays in it are missing; in `splits`, a file has another format or another checksum.
    """

    def __init__(self, folder: str | Path, train: int = 600, test: int = 100) -> None:
        self.folder, self.train, self.test = Path(folder), train, test
        files = self.folder.glob("*.npy") if self.folder.is_dir() else ()
        self.files = sorted(files, key=lambda file: (_number(file), file.stem))
        if not self.files:
            raise CannotRun(
                f"{self.folder} must be a folder with one .npy file per class, each uint8 of ({train + test}, 32, 32, "
                f"3) or ({train + test}, 3, 32, 32), and has none. Continual ImageNet has this format: ImageNet scaled "
                "down to 32 x 32 (image-net.org), 700 images of each class."
            )
        self._checksums = self._read_checksums()

    def __len__(self) -> int:
        return len(self.files)

    def splits(self, label: int) -> Splits:
        """The images of one class, labelled with its index."""
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
            raise CannotRun(f"Cannot read {file}: {error}. Create it with: sha256sum *.npy > {CHECKSUMS}") from error


def _number(file: Path) -> tuple[int, int]:
    """Sort key: files named by numbers come first, ordered by value."""
    return (0, int(file.stem)) if file.stem.isdecimal() else (1, 0)
