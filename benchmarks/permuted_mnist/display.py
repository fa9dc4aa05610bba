"""What the table and picture of Permuted MNIST show."""

from __future__ import annotations

from ..display import DEAD_AT_START, RANK, WEIGHTS, Display, Metric
from .settings import SOURCES, Settings


def _about(settings: Settings) -> str:
    return (
        f"{settings.images:,} {SOURCES[settings.source]}, one at a time and each once, with a new permutation of the "
        f"pixels in every task (784-{settings.hidden}-10)"
    )


DISPLAY = Display(
    main=Metric("online_accuracy", "Accuracy before the update on the image", percent=True),
    about=_about,
    asked="Is the stream still learned?",
    others=(DEAD_AT_START, RANK, WEIGHTS),
    chance=0.1,
    smooth=5,
)
