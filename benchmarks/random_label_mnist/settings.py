"""What can be set in random-label MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks import options
from benchmarks.options import option
from benchmarks.settings import BaseSettings, Values

METHODS = (
    "backprop",
    "l2",
    "l2_init",
    "shrink_and_perturb",
    "layer_norm",
    "crelu",
    "redo",
    "continual_backprop",
    "algorithm_1",
)


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of random-label MNIST."""

    help: ClassVar[str] = "memorise fresh random labels of 1,200 MNIST digits, task after task"
    revision: ClassVar[int] = 2
    methods: ClassVar[tuple[str, ...]] = METHODS
    default_methods: ClassVar[tuple[str, ...]] = ("backprop", "continual_backprop")
    together: ClassVar[tuple[str, ...]] = (
        "backprop",
        "l2",
        "l2_init",
        "shrink_and_perturb",
        "layer_norm",
        "continual_backprop",
    )
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {"tasks": 10, "epochs": 100},
        "published": {"tasks": 50, "epochs": 400},
    }
    times: ClassVar[dict[str, str]] = {"quick": "about three minutes on two cores"}

    tasks: int = option(10, "number of tasks, each with fresh labels", options.whole(1))
    epochs: int = option(100, "passes over the images in each task", options.whole(1))
    compile: str = options.compiled(METHODS)
    lr: float = options.lr(1e-3)
    weight_decay: float = options.weight_decay(1e-3)
    noise: float = options.noise(1e-4)
    l2_init: float = options.l2_init(1e-2)
    dormancy: float = options.dormancy(0.1)
    period: int = options.period(1000)
    replacement_rate: float = options.replacement_rate(1e-3)
    maturity_threshold: int = options.maturity_threshold(100)
    decay_rate: float = options.decay_rate(0.99)
    utility: str = options.utility("adaptable_contribution")
