"""Rates at which weights may change in a task, by how much earlier tasks need them.

A rate is 1 where nothing is needed. It multiplies the change that an optimizer makes to a weight, or its gradient. All
but `Random` are cases of

    rate = alpha / (C I + alpha)

with I of the weight fixed during a task and C of the weight's group in each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from gnt._utils.validation import finite_number, to_float
from gnt.names import Variant
from gnt.protection._coverage import Coverage

VARIANTS = get_args(Variant)


@dataclass(frozen=True)
class EarlierTasks:
    """What the tasks that have ended leave to the next one.

    Attributes:
        cumulative: c, 1 for each unit that a task uses, (units,).
        counts: M, the number of tasks that use each unit, (units,).
        number: the number of tasks.
        ran: for each parameter of the coverage whether a task has trained it.
        importance: I of each unit, if the method measures it, (units,).
    """

    cumulative: Tensor
    counts: Tensor
    number: int
    ran: Sequence[bool]
    importance: Tensor | None = None


class Rates:
    """Base class: how strongly the weights that earlier tasks need are held."""

    @property
    def freezes(self) -> bool:
        """A rate of 0 occurs: such weights are given their values back after each step, bit by bit."""
        return False

    @property
    def changes(self) -> bool:
        """The rates change from step to step."""
        return False

    def measures(self, earlier: EarlierTasks, coverage: Coverage) -> list[Tensor | None]:
        """What the rates of each parameter depend on, fixed during a task; broadcastable to it. None: rate 1.

        Args:
            earlier: the tasks that have ended.
            coverage: the parameters.
        """
        raise NotImplementedError

    def factors(self, sparsity: Tensor) -> Tensor | None:
        """What changes in each step: a factor for each group, and last that of weights of no group; None: nothing.

        Args:
            sparsity: R of each group in this step, sum of a (1 - c) / sum of (1 - c), and last that of all units.
        """
        return None

    def rate(self, measure: Tensor, factor: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """The rates of one parameter in this step, broadcastable to it.

        Args:
            measure: its entry of `measures`.
            factor: its entry of `factors`, broadcastable; None if there are none.
            generator: for random rates.
        """
        raise NotImplementedError

    def rate_into(self, out: Tensor, measure: Tensor, factor: Tensor) -> bool:
        """Write the rates to ``out``, so that a large parameter is computed in pieces; False: use `rate`."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """Name and settings, as plain values."""
        return {"name": type(self).__name__, **vars(self)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class Hard(Rates):
    """Weights between two units that earlier tasks use are fixed: rate 1 - min(c_i, c_j). This is HAT.

    Source: Serra et al., ICML 2018 (arXiv 1801.01423), Eq. 2.
    """

    @property
    def freezes(self) -> bool:
        """True for HAT itself."""
        return type(self) is Hard

    def measures(self, earlier: EarlierTasks, coverage: Coverage) -> list[Tensor | None]:
        """min(c_i, c_j)."""
        return coverage.measure(earlier.cumulative, earlier.ran, 1.0)

    def rate(self, measure: Tensor, factor: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """1 - min(c_i, c_j)."""
        return 1 - measure


class Random(Hard):
    """Weights between two units that earlier tasks use get rates drawn in each step, uniform in [0, 1)."""

    @property
    def changes(self) -> bool:
        """True."""
        return True

    def rate(self, measure: Tensor, factor: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """1 - k (1 - u) with k = min(c_i, c_j) and u uniform."""
        draw = torch.rand(measure.shape, generator=generator, dtype=measure.dtype, device=measure.device)
        return 1 - measure * (1 - draw)


class Constant(Hard):
    """Weights between two units that earlier tasks use have the same rate alpha. 1: gates without protection.

    Args:
        alpha: the rate, in [0, 1].

    Raises:
        ValueError: ``alpha`` outside [0, 1].
    """

    def __init__(self, alpha: float) -> None:
        if not 0 <= to_float(alpha) <= 1:
            raise ValueError(f"alpha must be a number in [0, 1], got {alpha!r}")
        self.alpha = to_float(alpha)

    def measures(self, earlier: EarlierTasks, coverage: Coverage) -> list[Tensor | None]:
        """min(c_i, c_j); None everywhere if the rate is 1."""
        measures = super().measures(earlier, coverage)
        return [None] * len(measures) if self.alpha == 1 else measures

    def rate(self, measure: Tensor, factor: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """1 - k (1 - alpha) with k = min(c_i, c_j)."""
        return 1 - measure * (1 - self.alpha)


class Hyperbolic(Rates):
    """Base class of rules with rate = 1 / (factor * measure + 1)."""

    def rate(self, measure: Tensor, factor: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """1 / (factor * measure + 1)."""
        assert factor is not None
        return (measure * factor).add_(1).reciprocal_()

    def rate_into(self, out: Tensor, measure: Tensor, factor: Tensor) -> bool:
        """Write the rates to ``out``."""
        torch.mul(measure, factor, out=out).add_(1).reciprocal_()
        return True


class Adaptive(Hyperbolic):
    """The more tasks use a weight's units, and the more free units its layer has, the less it changes. This is AdaHAT.

        rate = alpha / ((R_l + epsilon) M_ij + alpha)

    M_ij is the smaller of the numbers of earlier tasks that use the weight's two units, R_l the sparsity term of the
    layer in this step.

    Args:
        alpha: > 0.
        epsilon: > 0.
        variant: "adahat"; "no_sum": the number of earlier tasks in place of M_ij, for all weights; "no_reg": R_l is 0.

    Raises:
        ValueError: a setting out of range.

    Source: Wang et al., ECML-PKDD 2024, Eqs. 7 to 9.
    """

    def __init__(self, alpha: float, epsilon: float = 0.1, variant: Variant = "adahat") -> None:
        self.alpha = finite_number("alpha", alpha, exclusive=True)
        self.epsilon = finite_number("epsilon", epsilon, exclusive=True)
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}, got {variant!r}")
        self.variant: Variant = variant

    @property
    def changes(self) -> bool:
        """The sparsity term changes in each step."""
        return self.variant != "no_reg"

    def measures(self, earlier: EarlierTasks, coverage: Coverage) -> list[Tensor | None]:
        """M_ij."""
        counts = torch.full_like(earlier.counts, earlier.number) if self.variant == "no_sum" else earlier.counts
        return coverage.measure(counts, earlier.ran, float(earlier.number))

    def factors(self, sparsity: Tensor) -> Tensor:
        """(R_l + epsilon) / alpha."""
        if self.variant == "no_reg":
            return torch.full_like(sparsity, self.epsilon / self.alpha)
        return (sparsity + self.epsilon) / self.alpha
