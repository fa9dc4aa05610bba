"""What is shown of Permuted MNIST."""

from __future__ import annotations

from benchmarks.display import DEAD_AT_START, OPTIMIZERS, RANK, WEIGHTS, Display, Metric
from benchmarks.permuted_mnist.settings import SOURCES, Settings


def _about(settings: Settings) -> str:
    return (
        f"{settings.images:,} {SOURCES[settings.source]}, one by one and each once, with a fresh permutation of the "
        f"pixels in every task (784-{settings.hidden}-10, {OPTIMIZERS[settings.optimizer]})"
    )


DISPLAY = Display(
    main=Metric("online_accuracy", "Correct before learning from the image", percent=True),
    about=_about,
    others=(DEAD_AT_START, RANK, WEIGHTS),
    chance=0.1,
    smooth=5,
)
