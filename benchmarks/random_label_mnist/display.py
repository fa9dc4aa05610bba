"""What the table and picture of random-label MNIST show."""

from __future__ import annotations

from ..display import DEAD_AT_START, RANK, WEIGHTS, Display, Metric
from .settings import Settings


def _about(settings: Settings) -> str:
    return (
        "The same 1,200 MNIST digits, with new random labels to memorise in every task "
        f"({settings.epochs} epochs each, Adam)"
    )


DISPLAY = Display(
    main=Metric("online_accuracy", "Accuracy while learning the task", percent=True),
    about=_about,
    asked="Are new labels still memorised?",
    others=(DEAD_AT_START, RANK, WEIGHTS),
    chance=0.1,
)
