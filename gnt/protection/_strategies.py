"""Summing strategies: how much each earlier task counts in the importance that protects units in the next one.

The importance of a unit after T tasks is sum over t of w(t) I^t, with I^t its importance in task t:

    add_latest             1 for t = T, else 0
    add_all                T - t + 1
    add_average            1/t + ... + 1/T
    linear_decrease        step (T - t) + 1
    quadratic_decrease     (T - t + 1)^2
    cubic_decrease         (T - t + 1)^3
    exponential_decrease   rate^(T - t + 1)
    log_decrease           log(T - t + 1) / log(base) + 1
    factorial_decrease     (T - t + 1)!

add_all and add_average are running sums of the sum, and of the mean, of the tasks so far. "Decrease" is over the number
of the task: older tasks weigh more.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gnt._utils.validation import to_float
from gnt.names import SummingName


class _Strategy(NamedTuple):
    """The weight of a task by its age T - t + 1, or by its number and T, and the argument that it takes."""

    weight: Callable[[int, int, float], float]
    argument: str | None = None
    above: float = 0.0


_STRATEGIES: dict[str, _Strategy] = {
    "add_latest": _Strategy(lambda t, last, _: float(t == last)),
    "add_all": _Strategy(lambda t, last, _: last - t + 1.0),
    "add_average": _Strategy(lambda t, last, _: math.fsum(1 / k for k in range(t, last + 1))),
    "linear_decrease": _Strategy(lambda t, last, step: step * (last - t) + 1, "step", 0.0),
    "quadratic_decrease": _Strategy(lambda t, last, _: (last - t + 1.0) ** 2),
    "cubic_decrease": _Strategy(lambda t, last, _: (last - t + 1.0) ** 3),
    "exponential_decrease": _Strategy(lambda t, last, rate: _power(rate, last - t + 1), "rate", 1.0),
    "log_decrease": _Strategy(lambda t, last, base: math.log(last - t + 1) / math.log(base) + 1, "base", 1.0),
    "factorial_decrease": _Strategy(lambda t, last, _: float(math.factorial(min(last - t + 1, 170)))),
}
SUMMING = tuple(_STRATEGIES)


def _power(base: float, exponent: int) -> float:
    """At most about the largest float64, as 170! is: larger weights count as that."""
    return float(base**exponent) if exponent * math.log(base) < 700 else math.exp(700)


class Summing:
    """One strategy with its argument.

    Args:
        name: one of the names above.
        arguments: step, rate and base, None if not given.

    Attributes:
        name, argument: the strategy and its argument; 0 if it has none.

    Raises:
        ValueError: an unknown name; an argument that the strategy does not take, lacks, or that is out of range.
    """

    def __init__(self, name: SummingName, **arguments: float | None) -> None:
        if not isinstance(name, str) or name not in _STRATEGIES:
            near = difflib.get_close_matches(str(name), SUMMING, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"summing must be one of {', '.join(SUMMING)}, got {name!r}{hint}")
        strategy = _STRATEGIES[name]
        for key, value in arguments.items():
            if value is not None and key != strategy.argument:
                takes = f"takes {strategy.argument}" if strategy.argument else "takes no argument"
                raise ValueError(f"{key} must not be given for summing={name!r}, which {takes}; got {value!r}")
        self.name, self.argument = name, 0.0
        if strategy.argument is not None:
            given = arguments.get(strategy.argument)
            if given is None or not strategy.above < to_float(given) < math.inf:
                allowed = f"{strategy.argument}, a finite number above {strategy.above:g}"
                raise ValueError(f"summing={name!r} needs {allowed}, got {given!r}")
            self.argument = to_float(given)

    def weights(self, tasks: int) -> list[float]:
        """w(1), ..., w(T) for T tasks.

        >>> Summing("add_all").weights(3)
        [3.0, 2.0, 1.0]
        """
        weight = _STRATEGIES[self.name].weight
        return [weight(task, tasks, self.argument) for task in range(1, tasks + 1)]

    def total(self, importances: Tensor) -> Tensor:
        """The weighted sum over tasks: (tasks, units) -> (units,), at most the largest number of the dtype."""
        weights = torch.tensor(self.weights(len(importances)), dtype=torch.float64, device=importances.device)
        most = torch.finfo(importances.dtype).max
        return (weights @ importances.double()).clamp(max=most).to(importances.dtype)

    def __repr__(self) -> str:
        argument = _STRATEGIES[self.name].argument
        return f"{self.name}({f'{argument}={self.argument:g}' if argument else ''})"


class RangeScaling:
    """Maps each group's values to [0, 1]: (v - min) / (max - min) over its units; 0 where all are equal.

    Args:
        sizes: the number of units of each group, whose values are one after the other.

    >>> RangeScaling([3, 2])(torch.tensor([1.0, 3.0, 2.0, 5.0, 5.0]))
    tensor([0.0000, 1.0000, 0.5000, 0.0000, 0.0000])
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = torch.tensor(list(sizes), device="cpu")
        self._numbers = torch.arange(len(sizes), device="cpu").repeat_interleave(self._sizes)

    def __call__(self, values: Tensor) -> Tensor:
        """The scaled values, of finite ones."""
        if self._sizes.device != values.device:
            self._sizes, self._numbers = self._sizes.to(values.device), self._numbers.to(values.device)
        low, high = (torch.segment_reduce(values, kind, lengths=self._sizes, unsafe=True) for kind in ("min", "max"))
        span = (high - low).clamp_(min=torch.finfo(values.dtype).tiny)
        # index_select takes a third of the time of indexing
        return (values - low.index_select(0, self._numbers)).div_(span.index_select(0, self._numbers))
