"""What is shown of Permuted MNIST."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.display import DEAD, OPTIMIZERS, RANK, WEIGHTS, Display, Figure
from benchmarks.permuted_mnist.settings import SOURCES, Settings


def _about(settings: Settings) -> str:
    return (
        f"{settings.images:,} {SOURCES[settings.source]}, one by one and each once, with a fresh permutation of the "
        f"pixels in every task (784-{settings.hidden}-10, {OPTIMIZERS[settings.optimizer]})"
    )


DISPLAY = Display(
    x="task",
    main=Figure("online_accuracy", "Correct before learning from the image", percent=True),
    higher_is_better=True,
    about=_about,
    others=(replace(DEAD, title="Hidden units dead when the task starts"), RANK, WEIGHTS),
    chance=0.1,
    smooth=5,
)
