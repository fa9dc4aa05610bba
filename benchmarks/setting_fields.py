"""The fields that settings consist of: dataclass fields with a help text and a check of the value.

Settings that several experiments have are defined once, here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from .value_checks import BELOW_ONE, NOT_NEGATIVE, POSITIVE, SHARE, Check, one_of, utility_name, whole


def setting(
    default: Any,
    help: str,
    check: Check,
    methods: Iterable[str] = (),
    *,
    tuning: bool = False,
    only_speed: bool = False,
    later: Iterable[str] = (),
) -> Any:
    """A field of a settings dataclass.

    Args:
        default: default value.
        help: help text.
        check: text -> value; raises argparse.ArgumentTypeError that says what is allowed.
        methods: methods that it affects; empty: all.
        tuning: whether it belongs to the tuning of a method, as opposed to the problem that all methods are given.
        only_speed: whether it changes how results are computed and not what they are, up to rounding.
        later: methods that got the setting after runs of them were recorded: with the default value they are the same
            runs, in the same folders.
    """
    metadata = {
        "help": help,
        "check": check,
        "methods": tuple(methods),
        "tuning": tuning,
        "only_speed": only_speed,
        "later": tuple(later),
    }
    return dataclasses.field(default=default, metadata=metadata)


_CBP = ("continual_backprop", "ewc_cbp", "ewc_cbp_protected", "er_cbp", "hat_cbp", "cbp_top")
_ENGINES = (*_CBP, "algorithm_1")


def compiled(methods: Iterable[str]) -> Any:
    """The field ``compile`` for ``methods``."""
    help = "run each step as a compiled graph, as far as a graph can be made of it: yes or no"
    later = (
        "fire",
        "input_norm",
        "ccbp",
        "redo",
        "snr",
        "algorithm_1",
        "l2_init",
        "spectral",
        "parseval",
        "swr",
        "upgd",
    )
    return setting("no", help, one_of("yes", "no"), methods, tuning=True, only_speed=True, later=later)


def lr(default: float) -> Any:
    """The field ``lr``."""
    return setting(default, "learning rate of the optimizer", POSITIVE, tuning=True)


def weight_decay(default: float, *others: str) -> Any:
    """The field ``weight_decay``. ``others``: methods that use it besides L2 and Shrink and Perturb."""
    methods = ("l2", "shrink_and_perturb", *others)
    return setting(default, "weight decay, as in torch's optimizers", NOT_NEGATIVE, methods, tuning=True)


def noise(default: float) -> Any:
    """The field ``noise``."""
    help = "standard deviation of the noise added to all parameters after each step"
    return setting(default, help, NOT_NEGATIVE, ("shrink_and_perturb",), tuning=True)


def l2_init(default: float) -> Any:
    """The field ``l2_init``."""
    help = "coefficient of the penalty on the distance of all parameters from their initial values"
    return setting(default, help, NOT_NEGATIVE, ("l2_init", "l2_init_ewc"), tuning=True)


def dormancy(default: float) -> Any:
    """The field ``dormancy``."""
    return setting(default, "a unit is dormant if its score is at most this", NOT_NEGATIVE, ("redo",), tuning=True)


def period(default: int) -> Any:
    """The field ``period``."""
    return setting(default, "steps between two resets of dormant units", whole(1), ("redo",), tuning=True)


def sigma(default: float) -> Any:
    """The field ``sigma``."""
    return setting(default, "standard deviation of UPGD's noise", NOT_NEGATIVE, ("upgd",), tuning=True)


def utility_decay(default: float) -> Any:
    """The field ``utility_decay``."""
    return setting(default, "decay rate of UPGD's utilities", BELOW_ONE, ("upgd",), tuning=True)


def swr_share(default: float) -> Any:
    """The field ``swr_share``."""
    return setting(default, "share of the weights that SWR reinitializes at once", SHARE, ("swr",), tuning=True)


def swr_period(default: int) -> Any:
    """The field ``swr_period``."""
    return setting(default, "steps between two reinitializations of weights", whole(1), ("swr",), tuning=True)


def eta(default: float) -> Any:
    """The field ``eta``."""
    help = "SNR: share of a unit's silent times beyond which it is reset"
    return setting(default, help, SHARE, ("snr",), tuning=True)


def estimate_every(default: int) -> Any:
    """The field ``estimate_every``."""
    return setting(default, "steps between estimates of SNR's thresholds", whole(1), ("snr",), tuning=True)


def soft_rate(default: float) -> Any:
    """The field ``soft_rate``."""
    return setting(
        default, "CCBP: largest share by which a unit moves towards a new one", SHARE, ("ccbp",), tuning=True
    )


def soft_period(default: int) -> Any:
    """The field ``soft_period``."""
    return setting(default, "steps between two moves of CCBP", whole(1), ("ccbp",), tuning=True)


def spectral(default: float) -> Any:
    """The field ``spectral``."""
    help = "coefficient of the penalty on the distance of the largest singular values from 1"
    return setting(default, help, NOT_NEGATIVE, ("spectral",), tuning=True)


def parseval(default: float) -> Any:
    """The field ``parseval``."""
    help = "coefficient of the penalty on the distance of weights from orthogonal ones"
    return setting(default, help, NOT_NEGATIVE, ("parseval",), tuning=True)


def replacement_rate(default: float) -> Any:
    """The field ``replacement_rate``."""
    return setting(default, "fraction of the mature units that are replaced per step", SHARE, _ENGINES, tuning=True)


def maturity_threshold(default: int) -> Any:
    """The field ``maturity_threshold``."""
    help = "number of updates for which a new unit is protected from replacement"
    return setting(default, help, whole(0), _ENGINES, tuning=True)


def decay_rate(default: float) -> Any:
    """The field ``decay_rate``."""
    help = "decay rate of the running averages of utilities and features"
    return setting(default, help, BELOW_ONE, _ENGINES, tuning=True)


def utility(default: str) -> Any:
    """The field ``utility``."""
    return setting(default, "utility measure of a unit", utility_name, _CBP, tuning=True)
