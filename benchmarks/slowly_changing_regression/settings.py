"""Settings of Slowly-Changing Regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .. import setting_fields, value_checks
from ..method_names import methods_except, trained_together
from ..setting_fields import setting
from ..settings import BaseSettings, Values

ACTIVATIONS = ("sigmoid", "tanh", "elu", "relu", "leaky_relu", "swish", "linear")

METHODS = methods_except("layer_norm", "crelu", "fire", "input_norm")


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of Slowly-Changing Regression."""

    help: ClassVar[str] = "track a target whose slow input bits change every 10,000 steps"
    revision: ClassVar[int] = 2
    methods: ClassVar[tuple[str, ...]] = METHODS
    ensemble_methods: ClassVar[tuple[str, ...]] = trained_together(METHODS)
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {"steps": 300_000},
        "published": {"steps": 1_000_000, "utility": "adaptable_contribution"},
        "one_bit": {"steps": 3_000_000, "variant": "one_bit", "utility": "adaptable_contribution"},
    }
    durations: ClassVar[dict[str, str]] = {"quick": "about three minutes on two cores"}

    steps: int = setting(300_000, "number of examples, each seen once", value_checks.whole(1))
    variant: str = setting(
        "redraw",
        "how the 15 slow bits change: redraw (all) or one_bit (one is flipped)",
        value_checks.one_of("redraw", "one_bit"),
    )
    flip_every: int = setting(10_000, "steps between changes of the slow bits", value_checks.whole(1))
    bin: int = setting(20_000, "steps over which the squared error is averaged", value_checks.whole(1))
    activation: str = setting(
        "relu", f"activation of the hidden units: {' '.join(ACTIVATIONS)}", value_checks.one_of(*ACTIVATIONS)
    )
    optimizer: str = setting("sgd", "sgd or adam", value_checks.one_of("sgd", "adam"))
    compile: str = setting_fields.compiled(METHODS)
    lr: float = setting_fields.lr(0.01)
    weight_decay: float = setting_fields.weight_decay(1e-3, "upgd")
    noise: float = setting_fields.noise(1e-3)
    l2_init: float = setting_fields.l2_init(1e-3)
    dormancy: float = setting_fields.dormancy(0.1)
    period: int = setting_fields.period(1000)
    replacement_rate: float = setting_fields.replacement_rate(1e-4)
    maturity_threshold: int = setting_fields.maturity_threshold(100)
    decay_rate: float = setting_fields.decay_rate(0.99)
    utility: str = setting_fields.utility("contribution")
    sigma: float = setting_fields.sigma(1e-3)
    utility_decay: float = setting_fields.utility_decay(0.999)
    swr_share: float = setting_fields.swr_share(0.1)
    swr_period: int = setting_fields.swr_period(2400)
    eta: float = setting_fields.eta(0.02)
    estimate_every: int = setting_fields.estimate_every(1000)
    soft_rate: float = setting_fields.soft_rate(0.015)
    soft_period: int = setting_fields.soft_period(1000)
    spectral: float = setting_fields.spectral(1e-3)
    parseval: float = setting_fields.parseval(1e-3)
