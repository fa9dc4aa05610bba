"""The options that settings are made of: a dataclass field each, with its help and the check that turns the text of
the command line into a value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from benchmarks.value_checks import BELOW_ONE, NOT_NEGATIVE, POSITIVE, SHARE, Check, one_of, utility_name, whole


def setting(default: Any, help: str, check: Check, methods: Iterable[str] = (), *, tuning: bool = False) -> Any:
    """A field of a settings dataclass.

    Args:
        default: its value where nothing else is said.
        help: what it is, for ``--help``.
        check: text -> value; raises argparse.ArgumentTypeError with what is allowed.
        methods: those that it has an effect on; none: all of them.
        tuning: whether it belongs to how a method is tuned or run rather than to the problem that all are given.
    """
    metadata = {"help": help, "check": check, "methods": tuple(methods), "tuning": tuning}
    return dataclasses.field(default=default, metadata=metadata)


_ENGINES = ("continual_backprop", "algorithm_1")
_STEP_BY_STEP = ("l2_init", "redo", "algorithm_1")  # they act within the step, beside the learner


def compiled(methods: Iterable[str]) -> Any:
    """The field ``compile``, for the ``methods`` among these whose whole step can be a compiled graph."""
    methods = [method for method in methods if method not in _STEP_BY_STEP]
    return setting("no", "run each step as one compiled graph: yes or no", one_of("yes", "no"), methods, tuning=True)


def lr(default: float) -> Any:
    """The field ``lr``."""
    return setting(default, "learning rate of the optimizer", POSITIVE, tuning=True)


def weight_decay(default: float, *others: str) -> Any:
    """The field ``weight_decay``; ``others``: further methods that decay."""
    methods = ("l2", "shrink_and_perturb", *others)
    return setting(default, "weight decay, as torch's optimizers take it", NOT_NEGATIVE, methods, tuning=True)


def noise(default: float) -> Any:
    """The field ``noise``."""
    help = "standard deviation of the noise added to all parameters after each step"
    return setting(default, help, NOT_NEGATIVE, ("shrink_and_perturb",), tuning=True)


def l2_init(default: float) -> Any:
    """The field ``l2_init``."""
    help = "strength of the pull of all parameters towards their initial values"
    return setting(default, help, NOT_NEGATIVE, ("l2_init",), tuning=True)


def dormancy(default: float) -> Any:
    """The field ``dormancy``."""
    return setting(default, "score up to which a unit is dormant", NOT_NEGATIVE, ("redo",), tuning=True)


def period(default: int) -> Any:
    """The field ``period``."""
    return setting(default, "steps between two recyclings of dormant units", whole(1), ("redo",), tuning=True)


def replacement_rate(default: float) -> Any:
    """The field ``replacement_rate``."""
    return setting(default, "share of the mature units that are replaced in a step", SHARE, _ENGINES, tuning=True)


def maturity_threshold(default: int) -> Any:
    """The field ``maturity_threshold``."""
    help = "updates in which a new unit is protected from replacement"
    return setting(default, help, whole(0), _ENGINES, tuning=True)


def decay_rate(default: float) -> Any:
    """The field ``decay_rate``."""
    help = "decay rate of the running averages of utility and feature"
    return setting(default, help, BELOW_ONE, _ENGINES, tuning=True)


def utility(default: str) -> Any:
    """The field ``utility``."""
    return setting(default, "measure of what a unit is worth", utility_name, ("continual_backprop",), tuning=True)
