"""What can be set in random-label MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.settings import (
    STEP_SIZE,
    decay_rate,
    maturity_threshold,
    option,
    replacement_rate,
    utility,
    whole,
)


@dataclass(frozen=True)
class Settings:
    """Settings of random-label MNIST."""

    help: ClassVar[str] = "memorise fresh random labels of 1,200 MNIST digits, task after task"
    revision: ClassVar[int] = 1
    published: ClassVar[dict[str, Any]] = {"tasks": 50, "epochs": 400}
    time: ClassVar[str] = "about three minutes on two cores"

    tasks: int = option(10, "number of tasks, each with fresh labels", whole(1))
    epochs: int = option(100, "passes over the images in each task", whole(1))
    seed: int = option(0, "seed of weights, labels, order and replacements", whole(0))
    step_size: float = option(1e-3, "Adam's step size", STEP_SIZE)
    replacement_rate: float = replacement_rate(1e-3)
    maturity_threshold: int = maturity_threshold(100)
    decay_rate: float = decay_rate(0.99)
    utility: str = utility("adaptable_contribution")
