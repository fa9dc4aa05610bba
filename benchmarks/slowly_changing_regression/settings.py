"""What can be set in Slowly-Changing Regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.settings import (
    STEP_SIZE,
    decay_rate,
    maturity_threshold,
    one_of,
    option,
    replacement_rate,
    utility,
    whole,
)


@dataclass(frozen=True)
class Settings:
    """Settings of Slowly-Changing Regression."""

    help: ClassVar[str] = "follow a target whose slow input bits change every 10,000 steps"
    revision: ClassVar[int] = 1
    published: ClassVar[dict[str, Any]] = {"steps": 1_000_000}
    time: ClassVar[str] = "about three minutes on two cores"

    steps: int = option(300_000, "number of examples, each seen once", whole(1))
    variant: str = option(
        "redraw",
        "what happens to the 15 slow bits: all are redrawn, or one_bit is flipped",
        one_of("redraw", "one_bit"),
    )
    flip_every: int = option(10_000, "steps between changes of the slow bits", whole(1))
    bin: int = option(20_000, "steps over which the squared error is averaged", whole(1))
    seed: int = option(0, "seed of target, weights, inputs and replacements", whole(0))
    seeds: int = option(1, "number of seeds from that one on, trained together; errors are their means", whole(1))
    compile: str = option("no", "run each step as one compiled graph: yes or no", one_of("yes", "no"))
    optimizer: str = option("sgd", "sgd or adam", one_of("sgd", "adam"))
    step_size: float = option(0.01, "the optimizer's step size", STEP_SIZE)
    replacement_rate: float = replacement_rate(1e-4)
    maturity_threshold: int = maturity_threshold(100)
    decay_rate: float = decay_rate(0.99)
    utility: str = utility("contribution")
