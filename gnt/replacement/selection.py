"""Selection: how many units are due, and which have the lowest utility. Pure functions; counts are host arithmetic.

With ``rate`` the replacement rate and n the number of eligible units (`gnt.replacement.eligibility`), rate * n units
are due in an update, most of the time a fraction of one. Either the fraction is carried over (`accumulate`), so that
over any number of updates the count is within 1 of the sum of rate * n, or it is the probability of one more unit
(`draw_count`), so that the expected count is rate * n. Algorithm 1 of the Nature paper carries the sum over and
replaces one unit at a time (`accumulate_one`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def accumulate(accumulated: float, rate: float, eligible: int) -> tuple[int, float]:
    """Add rate * eligible to the accumulator and take the whole units out of it -> (count, accumulated).

    The count never exceeds ``eligible``: rate <= 1 and an accumulator below 1 sum to less than eligible + 1.

    >>> accumulate(0.75, rate=0.5, eligible=3)
    (2, 0.25)
    """
    accumulated += rate * eligible
    count = min(int(accumulated), eligible)
    return count, accumulated - count


def accumulate_one(accumulated: float, rate: float, eligible: int) -> tuple[int, float]:
    """Like `accumulate`, but take at most one unit, when the accumulator exceeds 1; the rest is carried over.

    >>> accumulate_one(0.5, rate=0.5, eligible=1), accumulate_one(0.75, rate=0.5, eligible=5)
    ((0, 1.0), (1, 2.25))
    """
    accumulated += rate * eligible
    count = int(accumulated > 1.0 and eligible > 0)
    return count, accumulated - count


def draw_count(rate: float, eligible: int, uniform: Callable[[], float]) -> int:
    """floor(rate * eligible), plus one with the probability of the fraction; ``uniform`` draws from [0, 1).

    >>> draw_count(0.5, eligible=3, uniform=lambda: 0.4), draw_count(0.5, eligible=3, uniform=lambda: 0.6)
    (2, 1)
    """
    due = rate * eligible
    count = int(due)
    fraction = due - count
    return min(count + (fraction > 0.0 and uniform() < fraction), eligible)


def lowest(utility: Tensor, eligible: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` eligible units of lowest utility, lowest first.

    ``count`` must not exceed the number of eligible units.

    >>> lowest(torch.tensor([3.0, 0.0, 2.0, 1.0]), torch.tensor([True, False, True, True]), 2)
    tensor([3, 2])
    """
    return _ranks(utility, eligible).topk(count, largest=False).indices


def lowest_of_each(utility: Tensor, eligible: Tensor, count: int, members: int) -> Tensor:
    """`lowest` within each of ``members`` equal parts; the results one after the other.

    >>> utility = torch.tensor([3.0, 1.0, 2.0, 0.5, 0.2, 0.1])
    >>> lowest_of_each(utility, utility < 3.0, 1, members=2)
    tensor([1, 5])
    """
    ranked = _ranks(utility, eligible).view(members, -1)
    indices = ranked.topk(count, largest=False).indices
    first = torch.arange(0, len(utility), ranked.shape[1], device=utility.device)
    return (indices + first[:, None]).flatten()


def _ranks(utility: Tensor, eligible: Tensor) -> Tensor:
    """The utility of eligible units, and infinity for all others.

    A utility that has overflowed counts as the largest number, so that every eligible unit is below all others.
    """
    info = torch.finfo(utility.dtype)
    finite = torch.nan_to_num(utility, nan=info.max, posinf=info.max, neginf=info.min)
    return torch.where(eligible, finite, torch.inf)
