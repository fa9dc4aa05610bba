"""The launchers by name."""

from __future__ import annotations

from .launcher import Launcher
from .local_launcher import LocalLauncher
from .ray_launcher import RayLauncher

NAMES = ("local", "ray")


def make_launcher(name: str, workers: int | None, checkpoint_seconds: float, *, tensorboard: bool) -> Launcher:
    """The launcher of that name.

    Args:
        name: one of `NAMES`.
        workers: number of runs executed at the same time; None: one per core.
        checkpoint_seconds: time between two checkpoints of a run.
        tensorboard: whether runs write TensorBoard event files.
    """
    launcher = RayLauncher if name == "ray" else LocalLauncher
    return launcher(workers, checkpoint_seconds, tensorboard=tensorboard)
