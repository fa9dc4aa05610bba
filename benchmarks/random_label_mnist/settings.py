"""Settings of random-label MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .. import setting_fields, value_checks
from ..method_names import METHODS, trained_together
from ..setting_fields import setting
from ..settings import BaseSettings, Values


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of random-label MNIST."""

    help: ClassVar[str] = "memorise new random labels of 1,200 MNIST digits in every task"
    revision: ClassVar[int] = 2
    methods: ClassVar[tuple[str, ...]] = METHODS
    ensemble_methods: ClassVar[tuple[str, ...]] = trained_together(METHODS)
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {"tasks": 10, "epochs": 100},
        "published": {"tasks": 50, "epochs": 400},
    }
    durations: ClassVar[dict[str, str]] = {
        "quick": "about three minutes on two cores",
        "published": "30 to 90 minutes of one core for five seeds of a method, as one ensemble",
    }

    tasks: int = setting(10, "number of tasks, each with new labels", value_checks.whole(1))
    epochs: int = setting(100, "passes over the images in each task", value_checks.whole(1))
    compile: str = setting_fields.compiled(METHODS)
    lr: float = setting_fields.lr(1e-3)
    weight_decay: float = setting_fields.weight_decay(1e-3, "upgd")
    noise: float = setting_fields.noise(1e-4)
    l2_init: float = setting_fields.l2_init(1e-2)
    dormancy: float = setting_fields.dormancy(0.1)
    period: int = setting_fields.period(1000)
    replacement_rate: float = setting_fields.replacement_rate(1e-3)
    maturity_threshold: int = setting_fields.maturity_threshold(100)
    decay_rate: float = setting_fields.decay_rate(0.99)
    utility: str = setting_fields.utility("adaptable_contribution")
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
