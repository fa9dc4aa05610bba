"""What can be set in class pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks import options
from benchmarks.options import option
from benchmarks.settings import BaseSettings, Values

SOURCES = ("fashion", "imagenet")


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of class pairs."""

    help: ClassVar[str] = "tell two classes of images apart, then two others, and so on (Continual ImageNet)"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = (
        "backprop",
        "l2",
        "l2_init",
        "shrink_and_perturb",
        "layer_norm",
        "redo",
        "continual_backprop",
    )
    default_methods: ClassVar[tuple[str, ...]] = ("backprop", "continual_backprop")
    # With the authors' step size and batches plasticity goes within thousands of tasks; the quick size has five times
    # their step size and a fifth of their batches, for every method, so that it can go within dozens.
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {"tasks": 40, "epochs": 20, "train": 100, "test": 100, "batch": 20, "lr": 0.05},
        "fashion": {"tasks": 200, "epochs": 50, "train": 600, "test": 100},
        "published": {"source": "imagenet", "tasks": 2000, "epochs": 250, "train": 600, "test": 100},
    }
    times: ClassVar[dict[str, str]] = {
        "quick": "about two minutes a run",
        "fashion": "about two hours a run",
    }
    by_method: ClassVar[dict[str, Values]] = {
        "l2": {"lr": 0.03, "weight_decay": 3e-6},
        "shrink_and_perturb": {"weight_decay": 1e-5},
    }

    source: str = option(
        "fashion",
        "where the classes come from: fashion (Fashion-MNIST, or any folder of four IDX files) or imagenet (a folder "
        "with one .npy array a class)",
        options.one_of(*SOURCES),
    )
    data: str = option("", "folder of the data; of Fashion-MNIST, Debian's when none is given", options.folder)
    tasks: int = option(40, "number of tasks, each a pair of classes", options.whole(1))
    epochs: int = option(25, "passes over the images in each task", options.whole(1))
    train: int = option(100, "images of each class to learn from, drawn anew for each task", options.whole(1))
    test: int = option(100, "images of each class to test on, drawn anew for each task", options.whole(1))
    batch: int = option(100, "images in a batch", options.whole(1))
    momentum: float = option(0.9, "of SGD", options.BELOW_ONE)
    lr: float = options.lr(0.01)
    weight_decay: float = options.weight_decay(1e-5)
    noise: float = options.noise(1e-5)
    l2_init: float = options.l2_init(1e-3)
    dormancy: float = options.dormancy(0.1)
    period: int = options.period(1000)
    replacement_rate: float = options.replacement_rate(3e-4)
    maturity_threshold: int = options.maturity_threshold(100)
    decay_rate: float = options.decay_rate(0.99)
    utility: str = options.utility("contribution")
