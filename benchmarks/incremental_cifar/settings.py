"""What can be set in class-incremental CIFAR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks import options
from benchmarks.options import option
from benchmarks.settings import BaseSettings, Values

SOURCES = ("fashion", "cifar100")
RESETS = ("nothing", "head", "network")


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of class-incremental CIFAR."""

    help: ClassVar[str] = "tell ever more classes of images apart with a ResNet-18 (class-incremental CIFAR-100)"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = ("backprop", "shrink_and_perturb", "continual_backprop")
    default_methods: ClassVar[tuple[str, ...]] = ("backprop", "continual_backprop")
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
            "replacement_rate": 1e-5,
        },
    }
    times: ClassVar[dict[str, str]] = {"quick": "about four minutes on two cores"}

    source: str = option(
        "fashion",
        "where the images come from: fashion (Fashion-MNIST, or any folder of four IDX files) or cifar100",
        options.one_of(*SOURCES),
    )
    data: str = option("", "folder of the data; of Fashion-MNIST, Debian's when none is given", options.folder)
    step: int = option(2, "classes more in each stage", options.whole(1))
    epochs: int = option(40, "passes over the images of all classes so far in each stage", options.whole(1))
    train: int = option(270, "images of each class to learn from", options.whole(1))
    validation: int = option(30, "images of each class to stop by", options.whole(1))
    test: int = option(100, "images of each class to test on", options.whole(1))
    width: int = option(8, "channels of the first stage of the ResNet-18; 64 as published", options.whole(1))
    shrink: int = option(2, "squares of so many by so many pixels become one pixel", options.whole(1))
    batch: int = option(90, "images in a batch", options.whole(1))
    reset: str = option(
        "nothing",
        "what is drawn anew at the start of each stage: nothing, the head, or the network (learning from scratch)",
        options.one_of(*RESETS),
    )
    device: str = option("cpu", "where the network lives: cpu or cuda", options.one_of("cpu", "cuda"))
    lr: float = options.lr(0.1)
    momentum: float = option(0.9, "of SGD", options.BELOW_ONE)
    weight_decay: float = options.weight_decay(5e-4, "backprop", "continual_backprop")
    noise: float = options.noise(1e-5)
    replacement_rate: float = options.replacement_rate(1e-4)
    maturity_threshold: int = options.maturity_threshold(1000)
    decay_rate: float = options.decay_rate(0.99)
    utility: str = options.utility("contribution")
