"""The names of the methods, and which of them can train several seeds together."""

from __future__ import annotations

from collections.abc import Iterable

METHODS = (
    "backprop",
    "l2",
    "l2_init",
    "shrink_and_perturb",
    "layer_norm",
    "crelu",
    "redo",
    "continual_backprop",
    "algorithm_1",
    "ccbp",
    "snr",
    "swr",
    "upgd",
    "spectral",
    "parseval",
    "fire",
    "input_norm",
)
"""The methods that `benchmarks.methods` trains, in the order of tables."""

FURTHER_METHODS = METHODS[METHODS.index("ccbp") :]
"""Those of `benchmarks.further_methods`, and input normalization."""

MAIN_METHODS = ("backprop", "continual_backprop")
"""The methods that every experiment compares, and that tables and pictures emphasise."""

_NOT_IN_ENSEMBLES = ("crelu", "redo", "algorithm_1")


def methods_except(*names: str) -> tuple[str, ...]:
    """All methods but these."""
    return tuple(method for method in METHODS if method not in names)


def trained_together(methods: Iterable[str]) -> tuple[str, ...]:
    """The methods among these whose seeds are trained together, as one `gnt.Ensemble`.

    >>> trained_together(["backprop", "redo"])
    ('backprop',)
    """
    return tuple(method for method in methods if method not in _NOT_IN_ENSEMBLES)
