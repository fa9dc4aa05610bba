"""What is shown of random-label MNIST."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.display import DEAD, RANK, WEIGHTS, Display, Figure
from benchmarks.random_label_mnist.settings import Settings


def _about(settings: Settings) -> str:
    return (
        "The same 1,200 MNIST digits, with fresh random labels to memorise in every task "
        f"({settings.epochs} passes each, Adam)"
    )


DISPLAY = Display(
    x="task",
    main=Figure("online_accuracy", "Correct labels while learning the task", percent=True),
    higher_is_better=True,
    about=_about,
    others=(replace(DEAD, title="Hidden units dead when the task starts"), RANK, WEIGHTS),
    chance=0.1,
)
