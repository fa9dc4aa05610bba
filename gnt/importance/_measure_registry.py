"""The registry of measures: by name, with what each reads and how its values are averaged."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from gnt._utils.validation import check_flags
from gnt.importance import measures
from gnt.importance._gradient_signals import FEATURE_GRADIENTS, GRADIENT_SIGNALS
from gnt.importance._signals import ALL_SIGNALS, Signals
from gnt.importance._validation import check_measured
from gnt.importance.attribution import ATTRIBUTIONS

MeasureFunction = Callable[[Signals], Tensor]


class Measure(NamedTuple):
    """A registered measure.

    Attributes:
        function: computes one number per unit from `Signals`.
        averaged: units are ranked by the running average of the measure, or else by its latest value.
        reads: names of the signals that the function may read.
        corrected: the running average is corrected for age.
    """

    function: MeasureFunction
    averaged: bool
    reads: frozenset[str] = ALL_SIGNALS
    corrected: bool = True

    @property
    def reads_feature_gradients(self) -> bool:
        """True if gradients of features must be recorded for this measure."""
        return bool(self.reads & FEATURE_GRADIENTS)

    @property
    def product(self) -> bool:
        """True if the function is one of gnt's own that are the mean over positions of the product of the signals read.

        These are computed for all groups together, without a call of the function; ``incoming`` is a divisor.
        """
        return any(self.function is function and self.reads == reads for function, reads in _PRODUCTS)


_PRODUCTS: tuple[tuple[MeasureFunction, frozenset[str]], ...] = (
    (measures.contribution, frozenset({"magnitude", "outgoing"})),
    (measures.weight, frozenset({"outgoing"})),
    (measures.adaptation, frozenset({"incoming"})),
    (measures.zero_contribution, frozenset({"deviation", "outgoing"})),
    (measures.adaptable_contribution, frozenset({"deviation", "outgoing", "incoming"})),
    (measures.feature_by_input, frozenset({"deviation", "incoming"})),
    (measures.activation, frozenset({"magnitude"})),
    (measures.adaptive_contribution, frozenset({"magnitude", "outgoing", "incoming"})),
)

_OTHERS: tuple[tuple[MeasureFunction, frozenset[str]], ...] = (
    (measures.incoming_weight, frozenset({"incoming"})),
    (measures.incoming_contribution, frozenset({"magnitude", "incoming"})),
    (measures.gradient, frozenset({"incoming_gradient"})),
    (measures.incoming_gradient, frozenset({"incoming_gradient"})),
    (measures.outgoing_gradient, frozenset({"outgoing_gradient"})),
    (measures.incoming_fisher, frozenset({"incoming_gradient_square"})),
    (measures.outgoing_fisher, frozenset({"outgoing_gradient_square"})),
    (measures.incoming_fisher_activation, frozenset({"magnitude", "incoming_gradient_square"})),
    (measures.outgoing_fisher_activation, frozenset({"magnitude", "outgoing_gradient_square"})),
    (measures.gradient_activation, frozenset({"feature_times_gradient"})),
    (measures.replacement_cost, frozenset({"centered_times_gradient"})),
)

MEASURES: dict[str, Measure] = {
    **{function.__name__: Measure(function, averaged=True, reads=reads) for function, reads in _PRODUCTS},
    "random": Measure(measures.random, averaged=False, reads=frozenset()),
    "uncorrected_contribution": Measure(
        measures.uncorrected_contribution, averaged=True, reads=frozenset({"magnitude", "outgoing"}), corrected=False
    ),
    **{function.__name__: Measure(function, averaged=True, reads=reads) for function, reads in _OTHERS},
}
_BUILT_IN = frozenset(MEASURES)


def register_utility(
    name: str,
    function: MeasureFunction,
    *,
    averaged: bool = True,
    corrected: bool = True,
    reads: Iterable[str] = ALL_SIGNALS,
) -> None:
    """Register a measure of utility under ``name``, for ``GnT(..., utility=name)``.

    Args:
        name: a name that no built-in measure or attribution has; an earlier measure registered under it is replaced.
        function: takes `Signals` and returns a floating point tensor (num_units,); units with lower values are replaced
            first. It must be pure. NaN and infinite values are refused in the update. Values near the largest number of
            the dtype can overflow in the running average, and then count as that number.
        averaged: rank units by the running average with decay rate and age correction (the default), or by the latest
            value.
        corrected: correct the running average for age (the default), or rank by the average as it is, which is too
            small for young units.
        reads: names of the signals that ``function`` reads. By default those of features and weights. Gradients must be
            named here: those of features are recorded only if a measure reads them.

    Raises:
        ValueError: the name is empty, or that of a built-in measure or attribution, or ``reads`` has the name of no
            signal.
        TypeError: ``function`` is not callable, or ``reads`` is no list.

    >>> import gnt
    >>> gnt.register_utility("squared_contribution", lambda s: (s.magnitude * s.outgoing).mean(1) ** 2)
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a non-empty string, got {name!r}")
    if name in _BUILT_IN or name in ATTRIBUTIONS:
        kind = "a built-in measure" if name in _BUILT_IN else "an attribution"
        raise ValueError(f"name {name!r} is taken by {kind}; choose another")
    check_flags(averaged=averaged, corrected=corrected)
    if not callable(function):
        raise TypeError(f"function must be callable, got {type(function).__name__}")
    if not isinstance(reads, Iterable):
        raise TypeError(f"reads must be a list of names of signals, got {reads!r}")
    names = [reads] if isinstance(reads, str) else [*reads]
    known = ALL_SIGNALS | GRADIENT_SIGNALS
    if unknown := ", ".join(repr(each) for each in names if not isinstance(each, str) or each not in known):
        raise ValueError(f"reads must be names of signals ({', '.join(sorted(known))}), got {unknown}")
    MEASURES[name] = Measure(function, averaged, frozenset(names), corrected)


def find_measure(name: str, argument: str = "utility") -> Measure:
    """Return the measure with that name; ``argument`` is what error messages call it.

    Raises:
        ValueError: there is none; the message lists all names.
    """
    if isinstance(name, str) and name in ATTRIBUTIONS and name not in MEASURES:
        raise ValueError(
            f"{argument} {name!r} is an attribution, which needs inputs and targets: gnt.importance.attribute and "
            f"gnt.FGAdaHAT compute it; {argument} must be one of {', '.join(MEASURES)}"
        )
    if not isinstance(name, str) or name not in MEASURES:
        near = difflib.get_close_matches(str(name), MEASURES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{argument} must be one of {', '.join(MEASURES)}, got {name!r}{hint}")
    return MEASURES[name]


def compute_measure(measure: Measure, name: str, signals: Signals) -> tuple[Tensor, Tensor]:
    """Mean feature at each tap, (taps, num_units), and value of the measure, (num_units,), of one group's units."""
    utility = measure.function(signals)
    check_measured(utility, signals.group, name)
    return signals.mean, utility


@contextmanager
def restore_generators_on_error(generators: Iterable[torch.Generator]) -> Iterator[None]:
    """If the body raises, set the generators back to their states from before."""
    states = [(generator, generator.get_state()) for generator in generators]
    try:
        yield
    except Exception:
        for generator, state in states:
            generator.set_state(state)
        raise
