"""Where commands read and write results: in the given folder itself, not in places that symbolic links lead to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import CannotRun


def inside(folder: Path, file: Path, option: str = "--out") -> Path:
    """``file``, a file or folder below ``folder``, after a check that no symbolic link leads elsewhere.

    ``folder`` itself may be a link or lie behind one: it is what the user has named. What does not exist passes.

    Args:
        folder: the folder of results.
        file: the path to check.
        option: the command-line option that names the folder, for the error message.

    Raises:
        CannotRun: ``file`` or a folder between the two is a symbolic link, or ``file`` is a pipe or a device.
    """
    place, mode = folder, stat.S_IFDIR
    for part in file.relative_to(folder).parts:
        place = place / part
        try:
            mode = os.lstat(place).st_mode
            target = os.readlink(place) if stat.S_ISLNK(mode) else None
        except OSError:  # it does not exist, or cannot be reached: then reading or writing it reports why
            return file
        if target is not None:
            raise CannotRun(
                f"{place} is a symbolic link to {target}. Links below {folder} are not followed, so that nothing "
                f"outside it is changed. Remove the link, or name another folder with {option}."
            )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CannotRun(f"{place} is neither a file nor a folder. Remove it, or name another folder with {option}.")
    return file
