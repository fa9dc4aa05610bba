"""What can be set in Slowly-Changing Regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks import options
from benchmarks.options import option
from benchmarks.settings import BaseSettings, Values

ACTIVATIONS = ("sigmoid", "tanh", "elu", "relu", "leaky_relu", "swish", "linear")

METHODS = (
    "backprop",
    "l2",
    "l2_init",
    "shrink_and_perturb",
    "redo",
    "continual_backprop",
    "algorithm_1",
)


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of Slowly-Changing Regression."""

    help: ClassVar[str] = "follow a target whose slow input bits change every 10,000 steps"
    revision: ClassVar[int] = 2
    methods: ClassVar[tuple[str, ...]] = METHODS
    default_methods: ClassVar[tuple[str, ...]] = ("backprop", "continual_backprop")
    together: ClassVar[tuple[str, ...]] = ("backprop", "l2", "l2_init", "shrink_and_perturb", "continual_backprop")
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {"steps": 300_000},
        "published": {"steps": 1_000_000},
        "one_bit": {"steps": 3_000_000, "variant": "one_bit"},
    }
    times: ClassVar[dict[str, str]] = {"quick": "about three minutes on two cores"}

    steps: int = option(300_000, "number of examples, each seen once", options.whole(1))
    variant: str = option(
        "redraw",
        "what happens to the 15 slow bits: all are redrawn, or one_bit is flipped",
        options.one_of("redraw", "one_bit"),
    )
    flip_every: int = option(10_000, "steps between changes of the slow bits", options.whole(1))
    bin: int = option(20_000, "steps over which the squared error is averaged", options.whole(1))
    activation: str = option("relu", f"of the hidden units: {' '.join(ACTIVATIONS)}", options.one_of(*ACTIVATIONS))
    optimizer: str = option("sgd", "sgd or adam", options.one_of("sgd", "adam"))
    compile: str = options.compiled(METHODS)
    lr: float = options.lr(0.01)
    weight_decay: float = options.weight_decay(1e-3)
    noise: float = options.noise(1e-3)
    l2_init: float = options.l2_init(1e-3)
    dormancy: float = options.dormancy(0.1)
    period: int = options.period(1000)
    replacement_rate: float = options.replacement_rate(1e-4)
    maturity_threshold: int = options.maturity_threshold(100)
    decay_rate: float = options.decay_rate(0.99)
    utility: str = options.utility("contribution")
