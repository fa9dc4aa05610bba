"""The packages of the extra ``rl``: checks that they are installed."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Final

from ..errors import CannotRun

# imageio: imported by gymnasium's MuJoCo environments, although nothing is rendered here
PACKAGES: Final = ("gymnasium", "mujoco", "imageio", "stable_baselines3")


def check_installed() -> None:
    """Raise an error if a package is missing.

    Raises:
        CannotRun: a package cannot be imported; the message says which one, and how to install it.
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
    """Versions of the packages that affect the results of a run."""
    return {name: importlib.metadata.version(name) for name in ("gymnasium", "mujoco", "stable-baselines3", "numpy")}
