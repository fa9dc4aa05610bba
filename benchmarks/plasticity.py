"""What `gnt.plasticity_check` says of the networks at the end of a run: recorded in the end of the record, and shown in
tables.

The network and a fresh one of the same architecture learn data that come after the run, with the optimizer and the
learning rate of the table's row but none of the method's additions. Methods with the same optimizer and learning rate
differ only in the network that they left; shares of rows with others cannot be compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .saved_values import fields, integer, mapping, number, one_of, optional

if TYPE_CHECKING:
    from gnt.names import FreshTask

VERDICTS: Final = ("severe", "some", "none", "unclear")
NOT_MEASURED: Final = "not measured"
SHORTEST: Final = 2_000
"""Runs of fewer training steps are not checked: the check would take longer than they do."""
SEEDS: Final = 3

Verdicts = dict[str, dict[str, Any]]
"""Seed, as text -> "verdict"; "lost", the share of a fresh network's progress that is lost, with the ends of its 95%
interval, "low" and "high"; "fresh_head", the share that is lost with a new output layer. None: not finite.
"""

_SHARE = optional(number())
VERDICTS_KIND = mapping(
    fields(verdict=one_of(*VERDICTS), steps=integer(1), lost=_SHARE, low=_SHARE, high=_SHARE, fresh_head=_SHARE)
)


@dataclass(frozen=True)
class Check:
    """How networks of an experiment are checked.

    Attributes:
        steps: number of steps of each copy.
        batch: number of samples in a batch.
        fresh: what is learned, as in `gnt.plasticity_check`.
        shortest: runs of fewer training steps are not checked.
    """

    steps: int = 300
    batch: int = 32
    fresh: FreshTask = "data"
    shortest: int = SHORTEST


def verdict_of(
    net: Any, make_net: Callable[[], Any], make_optimizer: Callable[..., Any], data: Any, loss: Any, check: Check
) -> dict[str, Any]:
    """Check one network.

    Args:
        net: the network at the end of a run; it is not changed.
        make_net: builds a new one, with initial weights from torch's global generator.
        make_optimizer: parameters -> the optimizer of the check.
        data: inputs and targets that the network has not learned.
        loss: as in `gnt.Backprop`.
        check: how it is checked.
    """
    import torch

    import gnt

    with torch.random.fork_rng(devices=[]):
        own = make_net()  # without the hooks of engines
    own.load_state_dict(net.state_dict())
    found = gnt.plasticity_check(
        own,
        make_optimizer,
        data,
        loss,
        steps=check.steps,
        fresh=check.fresh,
        seeds=SEEDS,
        batch_size=check.batch,
        reinitialize=make_net,
        progress=False,
    )
    lost, head = found.gaps.lost, found.gaps.lost_fresh_head
    numbers = {"lost": lost.mean, "low": lost.low, "high": lost.high, "fresh_head": head.mean}
    rounded = {name: round(value, 4) if math.isfinite(value) else None for name, value in numbers.items()}
    return {"verdict": found.verdict, "steps": check.steps, **rounded}


def verdicts_text(verdicts: Iterable[dict[str, Any]]) -> str:
    """The verdicts of several seeds as short text, with the mean share that was lost.

    >>> verdicts_text([{"verdict": "some", "lost": 0.2}, {"verdict": "severe", "lost": 0.6}])
    'severe 1, some 1; lost 40%'
    >>> verdicts_text([{"verdict": "none", "lost": -0.25}] * 3), verdicts_text([])
    ('none; ahead 25%', '')
    """
    every = list(verdicts)
    counts = Counter(each["verdict"] for each in every)
    names = [name for name in VERDICTS if counts[name]]
    if not names:
        return ""
    text = names[0] if len(names) == 1 else ", ".join(f"{name} {counts[name]}" for name in names)
    shares = [each["lost"] for each in every if each["lost"] is not None]
    if not shares:
        return text
    mean = sum(shares) / len(shares)
    return f"{text}; {'ahead' if mean < 0 else 'lost'} {abs(mean):.0%}"


def of_seeds(seeds: Sequence[int], verdicts: Iterable[dict[str, Any]]) -> Verdicts:
    """The verdicts of a run's seeds, in their order, by seed."""
    return {str(seed): verdict for seed, verdict in zip(seeds, verdicts, strict=True)}
