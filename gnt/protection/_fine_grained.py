"""`FineGrained`: rates by the importance of units in earlier tasks."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from gnt._utils.validation import check_flags, finite_number
from gnt.names import Aggregation, Schedule
from gnt.protection._coverage import Coverage
from gnt.protection._rates import EarlierTasks, Hyperbolic

SCHEDULES, AGGREGATIONS = get_args(Schedule), get_args(Aggregation)
_LARGEST = 1e30  # of C I / alpha, so that rates are above 0


class FineGrained(Hyperbolic):
    """The more important the units of a weight were in earlier tasks, the less it changes. This is FG-AdaHAT.

        rate = alpha / (C I_ij + alpha)
        C = (R_l + base_sparsity) * k,  k = t + base_linear | 1 | min(M_i, M_j) + base_linear

    I_ij joins the importances of the weight's two units, t is the number of the task from 1 on, R_l the sparsity term
    of the layer in this step, M the number of earlier tasks that use a unit. The rules for k are "linear_sparsity",
    "sparsity" and "summative_mask_sparsity".

    Args:
        alpha: > 0.
        schedule: the rule for k.
        aggregation: how the importances of two units are joined: "min", "max" or "mean".
        base_sparsity: > 0.
        base_linear: >= 0.
        filter_cumulative: multiply I_ij by min(c_i, c_j).

    Raises:
        ValueError: a setting out of range, or an unknown name.
    """

    def __init__(
        self,
        alpha: float,
        *,
        schedule: Schedule = "linear_sparsity",
        aggregation: Aggregation = "min",
        base_sparsity: float = 0.1,
        base_linear: float = 5.0,
        filter_cumulative: bool = False,
    ) -> None:
        self.alpha = finite_number("alpha", alpha, exclusive=True)
        for name, value, allowed in (("schedule", schedule, SCHEDULES), ("aggregation", aggregation, AGGREGATIONS)):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
        self.schedule: Schedule = schedule
        self.aggregation: Aggregation = aggregation
        self.base_sparsity = finite_number("base_sparsity", base_sparsity, exclusive=True)
        self.base_linear = finite_number("base_linear", base_linear)
        check_flags(filter_cumulative=filter_cumulative)
        self.filter_cumulative = filter_cumulative

    @property
    def changes(self) -> bool:
        """The sparsity term changes in each step."""
        return True

    def measures(self, earlier: EarlierTasks, coverage: Coverage) -> list[Tensor | None]:
        """I_ij times k."""
        importance = earlier.importance
        if importance is None:
            raise TypeError("FineGrained needs the importance of units, which only gnt.FGAdaHAT measures")
        found = coverage.measure(importance, earlier.ran, importance.max(), self.aggregation)
        if self.filter_cumulative:
            found = _products(found, coverage.measure(earlier.cumulative, earlier.ran, 1.0))
        if self.schedule == "summative_mask_sparsity":
            counts = coverage.measure(earlier.counts, earlier.ran, float(earlier.number))
            found = [
                None if each is None else each * (self.base_linear + (0 if count is None else count))
                for each, count in zip(found, counts, strict=True)
            ]
        elif self.schedule == "linear_sparsity":
            task = earlier.number + 1
            found = [None if each is None else each * (task + self.base_linear) for each in found]
        most = _LARGEST * self.alpha / (1 + self.base_sparsity)
        return [None if each is None else each.clamp(max=most) for each in found]

    def factors(self, sparsity: Tensor) -> Tensor:
        """(R_l + base_sparsity) / alpha."""
        return (sparsity + self.base_sparsity) / self.alpha


def _products(a: list[Tensor | None], b: list[Tensor | None]) -> list[Tensor | None]:
    return [None if x is None or y is None else x * y for x, y in zip(a, b, strict=True)]
