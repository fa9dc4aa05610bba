"""The packages of the extra ``rl``, looked for before they are imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Final

from benchmarks.errors import CannotRun

# imageio: gymnasium's MuJoCo environments import it, though they draw nothing here
PACKAGES: Final = ("gymnasium", "mujoco", "imageio", "stable_baselines3")


def check() -> None:
    """Refuse to go on without them.

    Raises:
        CannotRun: one of the packages cannot be found; the message names it, and what installs it.
    """
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise CannotRun(
            f"slippery_ant needs {' and '.join(missing)}, which cannot be found here. "
            'To install what it needs: pip install "torch-gnt[rl]"'
        )


def versions() -> dict[str, str]:
    """Of those that have a say in what a run comes to."""
    return {name: importlib.metadata.version(name) for name in ("gymnasium", "mujoco", "stable-baselines3", "numpy")}
