"""Ages and eligibility: which units of a group are old enough to be replaced, and how many.

A unit is eligible if its age exceeds the maturity threshold and it is not protected. The number of eligible units is
known on the host, from a queue of (update, number of unprotected units that become eligible in it), without reading the
device. The queue is built again from the ages when objects change the protection. Units that are held because of their
importance (`hold`) are old enough, so that their number is all that is needed to count without them.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor

from gnt._utils.state_dicts import MAX_COUNT, Kind, counter, number, tensor
from gnt.importance import RunningAverages
from gnt.replacement._long_term_importance import LongTermImportance
from gnt.replacement._setting_changes import set_by_engine


@set_by_engine(
    decay_rate="decay_rate",
    maturity_threshold="maturity_threshold",
    strict="accumulate",
    measure_every="measure_every",
)
class UnitState(RunningAverages):
    """State of the units of one group: running averages, ages, eligibility and counters.

    Attributes:
        maturity_threshold: a unit is eligible if its age exceeds this and it is not protected.
        accumulated: fraction of a unit that is due but not yet replaced; a Python float.
        replaced: number of units replaced so far.
        strict: a unit is due only if ``accumulated`` exceeds 1; otherwise also if it equals 1.
        next_maturity: number of the first update in which further units become eligible; infinity if none will.
        counted_eligible: number of eligible units before ``next_maturity``; use `eligible`.
        protected: units that are never replaced, bool (num_units,), held ones among them; None: no unit is.
        unprotected_share: 1 - p, with p the protection of a unit that can be replaced, (num_units,); None: p is 0 for
            all of them.
        num_protected: number of protected units.
        held: indices of the units that are held because of their importance, in ascending order; each is old enough.
        long_term: the importances by which they are chosen; None: none are.
    """

    next_maturity: float
    counted_eligible: int

    def __init__(
        self,
        num_units: int,
        *,
        decay_rate: float,
        maturity_threshold: int,
        averaged: bool,
        like: Tensor,
        taps: int = 1,
        corrected: bool = True,
        strict: bool = False,
        measure_every: int = 1,
    ) -> None:
        super().__init__(
            num_units,
            decay_rate=decay_rate,
            averaged=averaged,
            corrected=corrected,
            like=like,
            taps=taps,
            measure_every=measure_every,
        )
        self.maturity_threshold = maturity_threshold
        self.strict = strict
        self.replaced = 0
        self.accumulated = 0.0
        self.protected: Tensor | None = None
        self.unprotected_share: Tensor | None = None
        self.num_protected = 0
        self.held = self.no_units
        self.long_term: LongTermImportance | None = None
        self._protected_by_objects: Tensor | None = None
        self._set_queue(0, deque([(maturity_threshold + 1, num_units)]))

    def _set_queue(self, eligible: int, maturing: deque[tuple[int, int]]) -> None:
        self.counted_eligible, self._maturing = eligible, maturing
        self.next_maturity = maturing[0][0] if maturing else math.inf

    @property
    def mature(self) -> Tensor:
        """Which units are eligible: age > maturity_threshold, and not protected; bool (num_units,)."""
        old_enough = self._old_enough
        return old_enough if self.protected is None else old_enough & ~self.protected

    @property
    def _old_enough(self) -> Tensor:
        return self.born < self._latest_mature_birth

    @property
    def _latest_mature_birth(self) -> int:
        """Units born before this update are old enough; 0 if none is, however large the threshold is."""
        return max(0, self.updates - self.maturity_threshold)

    @property
    def eligible(self) -> int:
        """Number of eligible units; a host integer."""
        maturing, eligible = self._maturing, self.counted_eligible
        if self.updates >= self.next_maturity:
            while maturing and maturing[0][0] <= self.updates:
                eligible += maturing.popleft()[1]
            self._set_queue(eligible, maturing)
        return eligible

    @property
    def dead(self) -> Tensor:
        """Units whose age exceeds the maturity threshold, and whose mean feature was exactly 0 for longer than it.

        bool (num_units,); protected units are among them. The mean feature counts in the updates that measure it.
        """
        return self._old_enough & (self.last_active < self._latest_mature_birth)

    @property
    def ranked_utility(self) -> Tensor:
        """The corrected utility, raised for units with a protection p in (0, 1); (num_units,).

        u^ / (1 - p), which is u^ for p = 0 and rises with p, whatever the scale of u^ is. A negative u^, which only a
        registered measure can have, is multiplied by 1 - p, so that it rises, too.
        """
        utility, share = self.corrected_utility, self.unprotected_share
        return utility if share is None else torch.where(utility < 0, utility * share, utility / share)

    def protect(self, protection: Tensor | None) -> None:
        """Set the protection p of each unit; reads the device.

        Args:
            protection: values in [0, 1], float64 (num_units,), on the CPU; None: no unit is protected.
        """
        if protection is None and self._protected_by_objects is None and self.unprotected_share is None:
            return
        self._protected_by_objects, self.unprotected_share = None, None
        if protection is not None:
            full = protection == 1
            share = torch.where(full, 1.0, 1.0 - protection)
            self._protected_by_objects = full.to(self.born.device) if bool(full.any()) else None
            self.unprotected_share = share.to(self.utility) if bool((share < 1).any()) else None
        self.recount_eligible()

    def hold(self, units: Tensor) -> None:
        """Hold units in place of those held so far; does not read the device.

        Args:
            units: indices in ascending order, of units that are eligible or were held.
        """
        eligible = self.eligible + len(self.held) - len(units)
        self.num_protected += len(units) - len(self.held)
        self.held = units
        self._set_queue(eligible, self._maturing)
        self._join_protection()

    def hold_by_importance(self, wanted: bool) -> None:
        """Begin or end to keep importances by which units are held."""
        if wanted and self.long_term is None:
            self.long_term = LongTermImportance(self.utility)
        elif not wanted and self.long_term is not None:
            self.long_term = None
            self.hold(self.no_units)

    def _join_protection(self) -> None:
        """Set ``protected`` to the units protected by objects and those that are held."""
        protected = self._protected_by_objects
        if len(self.held):
            protected = torch.zeros_like(self.born, dtype=torch.bool) if protected is None else protected
            protected = protected.index_fill(0, self.held, True)
        self.protected = protected

    def replace(self, units: Tensor, *, all_eligible: bool, restarted: bool = False) -> None:
        """Restart ``units`` at age 0 and count them as replaced.

        Args:
            units: indices.
            all_eligible: the units were selected among the eligible ones, so the device need not be read.
            restarted: a kernel has set their ages and averages.
        """
        eligible = self.eligible
        if not restarted:
            self._restart(units)
        self.replaced += len(units)
        if all_eligible:
            self._maturing.append((self.updates + self.maturity_threshold + 1, len(units)))
            self._set_queue(eligible - len(units), self._maturing)
        else:
            self.recount_eligible()

    def restart(self, units: Tensor) -> None:
        """Restart ``units`` at age 0 without counting them as replaced: another engine has replaced them."""
        self._restart(units)
        self.recount_eligible()

    def _restart(self, units: Tensor) -> None:
        super().restart(units)
        if self.long_term is not None:
            self.long_term.restart(units)

    def start_at(self, updates: int) -> None:
        """Let all units start at age 0 after this number of updates."""
        self.updates = updates
        self.born.fill_(updates)
        self.last_active.fill_(updates)
        self.recount_eligible()

    def recount_eligible(self) -> None:
        """Rebuild the host's queue from the ages; reads the device. Units that are too young are held no longer."""
        by_objects = self._protected_by_objects
        if len(self.held):
            may_be_held = self._old_enough if by_objects is None else self._old_enough & ~by_objects
            self.held = self.held[may_be_held[self.held]]
        self.num_protected = len(self.held) + (0 if by_objects is None else int(by_objects.sum()))
        self._join_protection()
        born = self.born if self.protected is None else self.born[~self.protected]
        births, counts = torch.unique(born, return_counts=True)
        maturities = [
            (birth + self.maturity_threshold + 1, count)
            for birth, count in zip(births.tolist(), counts.tolist(), strict=True)
        ]
        eligible = sum(count for update, count in maturities if update <= self.updates)
        self._set_queue(eligible, deque((update, count) for update, count in maturities if update > self.updates))

    def next_due(self, rate: float) -> int | None:
        """Number of updates until a unit is due, if no unit is replaced before; None: never.

        A unit is due when the accumulator reaches 1, or exceeds it if ``strict``.
        """
        if rate == 0.0:
            return None
        eligible = self.eligible
        maturing, total, now = list(self._maturing), self.accumulated, self.updates
        while True:
            until = maturing[0][0] - 1 if maturing else None
            if eligible:
                limit = None if until is None else until - now
                total, needed = _additions_until_one(total, rate * eligible, limit, strict=self.strict)
                if needed is not None:
                    return now + needed - self.updates
            if until is None:
                return None
            now = until
            eligible += maturing.pop(0)[1]

    def move_to(self, like: Tensor) -> None:
        """Move to the device of ``like`` and widen to its dtype."""
        super().move_to(like)
        if self._protected_by_objects is not None:
            self._protected_by_objects = self._protected_by_objects.to(like.device)
        self.held = self.held.to(like.device)
        self._join_protection()
        if self.long_term is not None:
            self.long_term.move_to(self.utility)
        if self.unprotected_share is not None:
            self.unprotected_share = self.unprotected_share.to(self.utility)

    def state_dict(self) -> dict[str, Any]:
        """Copies of all state but the protection by objects, which own it, and the queue, which both determine."""
        own = {**super().state_dict(), "replaced": self.replaced, "accumulated": self.accumulated}
        if self.long_term is None:
            return own
        held = torch.zeros_like(self.born).index_fill_(0, self.held, 1)
        return {**own, **self.long_term.state_dict(), "held": held}

    def checked_state(self, saved: Any, where: str = "", most_updates: int = MAX_COUNT) -> dict[str, Any]:
        """`RunningAverages.checked_state`. A state without held units, saved without them, is one that holds none."""
        if self.long_term is not None and isinstance(saved, dict) and "held" not in saved:
            none = LongTermImportance(self.utility).state_dict()
            saved = {**saved, **none, "held": torch.zeros_like(self.born)}
        return super().checked_state(saved, where, most_updates)

    def _kinds(self, updates: int) -> dict[str, Kind]:
        # in each update at most one unit more than the number of units is due
        most = self.num_units * updates + 1 if self.strict else 1
        own = {**super()._kinds(updates), "replaced": counter(), "accumulated": number(0, most)}
        return own if self.long_term is None else {**own, **self.long_term.kinds(), "held": tensor(self.born, 0, 1)}

    def load_checked(self, checked: dict[str, Any]) -> None:
        """Load the result of `checked_state`."""
        super().load_checked(checked)
        self.replaced, self.accumulated = checked["replaced"], checked["accumulated"]
        if self.long_term is not None:
            self.long_term.load_checked(checked)
            self.held = checked["held"].nonzero().view(-1)
        self.recount_eligible()


def _additions_until_one(total: float, amount: float, limit: int | None, *, strict: bool) -> tuple[float, int | None]:
    """Add ``amount`` up to ``limit`` times -> (sum, number of additions after which it reached or exceeded 1, or None).

    Sums are rounded as the accumulator is.
    """
    estimate = (1.0 - total) / amount
    if estimate > 100_000:  # too many to add one by one
        if limit is not None and limit < estimate:
            return total + amount * min(limit, 1e300), None
        return 1.0, math.ceil(min(estimate, 1e300))
    count = 0
    while limit is None or count < limit:
        total, count = total + amount, count + 1
        if total > 1.0 or (total == 1.0 and not strict):
            return total, count
    return total, None
