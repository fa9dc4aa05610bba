"""Settings of class pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .. import setting_fields, value_checks
from ..method_names import FURTHER_METHODS, methods_except
from ..setting_fields import setting
from ..settings import BaseSettings, Values

SOURCES = ("fashion", "imagenet")


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of class pairs."""

    help: ClassVar[str] = "classify two classes of images, then two others, and so on (Continual ImageNet)"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = methods_except("crelu", "algorithm_1", *FURTHER_METHODS)
    # With the authors' step size and batch size plasticity is lost within thousands of tasks. The quick size has three
    # times the step size and a fifth of the batch size, for every method, so that it can be lost within dozens.
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {"tasks": 40, "epochs": 20, "train": 100, "test": 100, "batch": 20, "lr": 0.03},
        "fashion": {"tasks": 200, "epochs": 50, "train": 600, "test": 100},
        "published": {
            "source": "imagenet",
            "tasks": 2000,
            "epochs": 250,
            "train": 600,
            "test": 100,
            "utility": "adaptable_contribution",
        },
    }
    durations: ClassVar[dict[str, str]] = {
        "quick": "about two minutes per run",
        "fashion": "about two hours per run",
    }
    needs: ClassVar[dict[str, str]] = {"published": "images of ImageNet in a folder"}
    method_defaults: ClassVar[dict[str, Values]] = {
        "l2": {"lr": 0.03, "weight_decay": 3e-6},
        "shrink_and_perturb": {"weight_decay": 1e-5},
    }

    source: str = setting(
        "fashion",
        "where the classes come from: fashion (Fashion-MNIST, or any folder of four IDX files) or imagenet (a folder "
        "with one .npy array per class)",
        value_checks.one_of(*SOURCES),
    )
    data: str = setting("", "folder of the data; default for Fashion-MNIST: Debian's", value_checks.folder)
    tasks: int = setting(40, "number of tasks, each a pair of classes", value_checks.whole(1))
    epochs: int = setting(25, "passes over the images in each task", value_checks.whole(1))
    train: int = setting(100, "training images of each class, drawn for each task", value_checks.whole(1))
    test: int = setting(100, "test images of each class, drawn for each task", value_checks.whole(1))
    batch: int = setting(100, "images in a batch", value_checks.whole(1))
    momentum: float = setting(0.9, "momentum of SGD", value_checks.BELOW_ONE)
    lr: float = setting_fields.lr(0.01)
    weight_decay: float = setting_fields.weight_decay(1e-5)
    noise: float = setting_fields.noise(1e-5)
    l2_init: float = setting_fields.l2_init(1e-3)
    dormancy: float = setting_fields.dormancy(0.1)
    period: int = setting_fields.period(1000)
    replacement_rate: float = setting_fields.replacement_rate(3e-4)
    maturity_threshold: int = setting_fields.maturity_threshold(100)
    decay_rate: float = setting_fields.decay_rate(0.99)
    utility: str = setting_fields.utility("contribution")
