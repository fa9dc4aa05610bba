"""The packages of the extra ``rl``, looked for before anything is made."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Final

from benchmarks.errors import CannotRun

# imageio: gymnasium's MuJoCo environments import it, though they draw nothing here
PACKAGES: Final = ("gymnasium", "mujoco", "imageio", "stable_baselines3")


def check_installed() -> None:
    """Refuse to go on without them.

    Raises:
        CannotRun: one of the packages cannot be imported; the message names it, and what installs it.
    """
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise CannotRun(
                f"slippery_ant needs {package}, which cannot be imported ({error}). "
                'To install what it needs: pip install "torch-gnt[rl]"'
            ) from error


def versions() -> dict[str, str]:
    """Of those that have a say in what a run comes to."""
    return {name: importlib.metadata.version(name) for name in ("gymnasium", "mujoco", "stable-baselines3", "numpy")}
