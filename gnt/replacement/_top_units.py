"""TopUnits: protection without tasks. The units of highest importance are held, and learn more slowly.

Only units older than the maturity threshold are held, and a held unit is never replaced, so that it stays old enough.
The number of held units, and so the number of eligible ones, is therefore known on the host at any time: the device
only computes which units are held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from gnt._utils.validation import check_positive, finite_number, to_float
from gnt.importance import Importance
from gnt.names import HeldOutgoing, LongTermAverage
from gnt.units import UnitGroup

AVERAGES, OUTGOING = get_args(LongTermAverage), get_args(HeldOutgoing)
_PREFIX = "top:"


@dataclass(frozen=True)
class TopUnits:
    """Hold the units of highest running importance, without task boundaries: ``GnT(..., protect=TopUnits(0.2))``.

    Held units are never replaced, and the replacement rate applies to the other eligible units. With v_i the utility
    of unit i (`GnT`'s corrected utility) divided by the mean of its absolute value over the group, every ``every``
    updates, and d' = decay_rate^every::

        "ema"  I_i <- d' I_i + (1 - d') v_i, divided by 1 - d'^a after a such steps
        "max"  I_i <- max(d' I_i, v_i)

    The held units are then the floor(fraction * num_units) units of highest I among those older than the maturity
    threshold (all of these if they are fewer). A unit takes the place of a held one only if its I exceeds that one's by
    the share ``margin``. A replaced unit restarts with I = 0.

    After each optimizer step, the share 1 - ``slow`` of what the step has changed in held units is undone::

        w <- w_before + slow * (w - w_before)

    for what computes a held unit (its rows of the producers' weights and biases, its entries in norms between producer
    and consumers) and for its columns in the layers that read it; with ``outgoing="outputs"`` only in layers that
    compute no units of the engine, such as the output layer, so that other units are free to read held ones. A weight
    between two units is thus slowed if either is held. `HAT` protects it only if both are, because its gates switch the
    others off when an old task is evaluated. Here nothing is switched off, and a weight from a unit that is not held
    changes a held one as any other does. The optimizer's own state (momentum) is not slowed.

    Args:
        fraction: share of the units of each group that is held, in (0, 1].
        slow: factor of a held unit's steps, in [0, 1]. 0: it does not change. 1: it learns like the others; no hook is
            added to the optimizer then.
        decay_rate: d, per update, in [0, 1).
        every: number of updates between two choices of the held units, an integer >= 1.
        margin: by which share of its importance a held unit is preferred, >= 0.
        average: "ema" or "max".
        outgoing: "all" or "outputs": in which layers the columns of held units are slowed.
        importance: a `gnt.importance.Importance` on the same groups, whose values take the place of the utility. It
            must be updated before the engine's step (``importance.attach(optimizer)``) and follow the engine
            (``follow=[importance]``). None: the engine's utility.

    ``protect="top:0.2"`` is short for ``protect=TopUnits(0.2)``. The object has settings only: importances and held
    units are part of the engine's ``state_dict``. No step waits for the device. Other protectors may be given beside
    one TopUnits, which then chooses among the units that they do not protect.

    Raises:
        ValueError: a setting outside its range. By the engine: slow < 1 without an optimizer, or an Importance without
            one of its groups.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    >>> keep = gnt.protection.TopUnits(0.25, slow=0.0, every=1)
    >>> engine = gnt.GnT(net, optimizer, replacement_rate=0.1, maturity_threshold=2, protect=keep).attach()
    >>> for step in range(12):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    >>> state = engine.groups[0].state
    >>> len(state.held), bool((state.age[state.held] == 12).all()), state.replaced
    (4, True, 10)
    """

    fraction: float
    slow: float = 0.1
    decay_rate: float = 0.9999
    every: int = 10
    margin: float = 0.1
    average: LongTermAverage = "ema"
    outgoing: HeldOutgoing = "all"
    importance: Any = None

    def __post_init__(self) -> None:
        if not 0.0 < to_float(self.fraction) <= 1.0:
            raise ValueError(f"fraction must be a number in (0, 1], got {self.fraction!r}")
        if not 0.0 <= to_float(self.slow) <= 1.0:
            raise ValueError(f"slow must be a number in [0, 1], got {self.slow!r}")
        if not 0.0 <= to_float(self.decay_rate) < 1.0:
            raise ValueError(f"decay_rate must be a number in [0, 1), got {self.decay_rate!r}")
        check_positive(every=self.every)
        finite_number("margin", self.margin)
        if self.average not in AVERAGES:
            raise ValueError(f"average must be one of {', '.join(AVERAGES)}, got {self.average!r}")
        if self.outgoing not in OUTGOING:
            raise ValueError(f"outgoing must be one of {', '.join(OUTGOING)}, got {self.outgoing!r}")
        if self.importance is not None and not isinstance(self.importance, Importance):
            raise TypeError(f"importance must be a gnt.importance.Importance or None, got {self.importance!r:.80}")

    @classmethod
    def parse(cls, text: str) -> TopUnits | None:
        """The object that "top:0.2" is short for; None for a text that does not begin with "top:".

        Raises:
            ValueError: what follows is not a number in (0, 1].
        """
        if not text.startswith(_PREFIX):
            return None
        try:
            fraction = float(text.removeprefix(_PREFIX))
        except ValueError:
            fraction = 0.0
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"protect='top:<share>' needs a share in (0, 1], such as 'top:0.2', got {text!r}")
        return cls(fraction)

    def check(self, group: UnitGroup) -> None:
        """Raise ValueError if the Importance does not have a group of the engine."""
        if self.importance is not None:
            self._source(group)

    def _source(self, group: UnitGroup) -> Any:
        """The state with the values of a group's units."""
        if self.importance is None:
            return group.state
        for other in self.importance.groups:
            same = other.incoming[0].module is group.incoming[0].module
            if same and other.incoming[0].offset == group.incoming[0].offset and other.num_units == group.num_units:
                return other.state
        raise ValueError(
            f"importance of TopUnits does not have group {group.name!r}: build it from the groups of the engine"
        )

    def count(self, num_units: int) -> int:
        """The largest number of units that are held."""
        return int(self.fraction * num_units + 1e-9)  # 0.29 * 100 is less than 29

    def after_update(self, group: UnitGroup) -> None:
        """Update the importances and choose the held units, if it is time; does not read the device."""
        state = group.state
        if state.updates % self.every:
            return
        values = _relative(self._source(group).corrected_utility)
        importance = state.long_term.update(values, self.decay_rate**self.every, self.average)
        candidates = state.mature.index_fill(0, state.held, True)
        rank = torch.where(candidates, _raised(importance, state.held, self.margin), -torch.inf)
        count = min(self.count(state.num_units), state.eligible + len(state.held))
        state.hold(rank.topk(count).indices.sort().values)


def _raised(importance: Tensor, held: Tensor, margin: float) -> Tensor:
    """Importances, finite, with those of held units raised by the share ``margin``."""
    info = torch.finfo(importance.dtype)
    importance = importance.nan_to_num(nan=info.min, posinf=info.max, neginf=info.min)
    own = importance.index_select(0, held)
    return importance.index_copy(0, held, own + margin * own.abs()).clamp(info.min, info.max)


def _relative(values: Tensor) -> Tensor:
    """Values divided by the mean of their absolute values; all 0 if that is 0."""
    mean = values.abs().mean()
    return torch.where(mean > 0, values / mean, 0.0)
