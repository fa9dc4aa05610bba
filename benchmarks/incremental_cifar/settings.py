"""Settings of class-incremental CIFAR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .. import setting_fields, value_checks
from ..setting_fields import setting
from ..settings import BaseSettings, Values

SOURCES = ("fashion", "cifar100")
RESETS = ("nothing", "head", "network")


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of class-incremental CIFAR."""

    help: ClassVar[str] = "classify a growing number of image classes with a ResNet-18 (class-incremental CIFAR-100)"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = ("backprop", "shrink_and_perturb", "continual_backprop")
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {},
        "published": {
            "source": "cifar100",
            "step": 5,
            "epochs": 200,
            "train": 450,
            "validation": 50,
            "test": 100,
            "width": 64,
            "shrink": 1,
            "padding": 4,
            "replacement_rate": 1e-5,
        },
    }
    durations: ClassVar[dict[str, str]] = {"quick": "about four minutes on two cores"}
    needs: ClassVar[dict[str, str]] = {"published": "CIFAR-100 in a folder and a GPU"}

    source: str = setting(
        "fashion",
        "where the images come from: fashion (Fashion-MNIST, or any folder of four IDX files) or cifar100",
        value_checks.one_of(*SOURCES),
    )
    data: str = setting("", "folder of the data; default for Fashion-MNIST: Debian's", value_checks.folder)
    step: int = setting(2, "number of classes added in each stage", value_checks.whole(1))
    epochs: int = setting(40, "passes over the images of all classes so far in each stage", value_checks.whole(1))
    train: int = setting(270, "training images of each class", value_checks.whole(1))
    validation: int = setting(30, "validation images of each class, for early stopping", value_checks.whole(1))
    test: int = setting(100, "test images of each class", value_checks.whole(1))
    width: int = setting(8, "channels of the first stage of the ResNet-18 (published: 64)", value_checks.whole(1))
    shrink: int = setting(2, "factor by which images are shrunk, by averaging squares of pixels", value_checks.whole(1))
    padding: int = setting(2, "maximum shift of training images, in pixels (published: 4 of 32)", value_checks.whole(0))
    batch: int = setting(90, "images in a batch", value_checks.whole(1))
    reset: str = setting(
        "nothing",
        "what is reset at the start of each stage: nothing, the head, or the network (training from scratch)",
        value_checks.one_of(*RESETS),
    )
    device: str = setting("cpu", "cpu or cuda", value_checks.one_of("cpu", "cuda"), only_speed=True)
    lr: float = setting_fields.lr(0.1)
    momentum: float = setting(0.9, "momentum of SGD", value_checks.BELOW_ONE)
    weight_decay: float = setting_fields.weight_decay(5e-4, "backprop", "continual_backprop")
    noise: float = setting_fields.noise(1e-5)
    replacement_rate: float = setting_fields.replacement_rate(1e-4)
    maturity_threshold: int = setting_fields.maturity_threshold(1000)
    decay_rate: float = setting_fields.decay_rate(0.99)
    utility: str = setting_fields.utility("contribution")
