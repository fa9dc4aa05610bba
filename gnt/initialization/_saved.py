"""Initial distributions in a saved state, so that a resumed run draws from those of the original run.

``init="auto"`` looks at the weights of the run's start, which a resumed run no longer has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from gnt._utils.validation import finite_number
from gnt.initialization._distribution import KINDS, Distribution
from gnt.initialization._slot_init import SlotInit

SlotInits = Sequence[Sequence[SlotInit]]  # for each group and slot that is drawn


LARGEST_SCALE = 1e6  # of new weights in a saved state; no initial distribution is near it


def saved_inits(inits: SlotInits) -> list[list[dict[str, Any]]]:
    """The distributions as lists of plain values."""
    return [
        [{"weights": _save(each.weights), "biases": _save(each.biases), "reason": each.reason} for each in slots]
        for slots in inits
    ]


def loaded_inits(saved: Any, present: SlotInits, *, weights: bool, biases: bool) -> list[list[SlotInit]]:
    """The distributions of a saved state, in place of those that were chosen from present values.

    Args:
        saved: the result of `saved_inits`.
        present: the distributions of this engine.
        weights: load those of weights.
        biases: load those of biases.

    Raises:
        ValueError: not the result of `saved_inits`, or that of other groups.
    """
    wanted = [len(slots) for slots in present]
    try:
        if not isinstance(saved, list) or [len(slots) for slots in saved] != wanted:
            raise ValueError(f"it must hold {wanted} entries for the groups")
        return [
            [_loaded(entry, own, weights=weights, biases=biases) for entry, own in zip(entries, slots, strict=True)]
            for entries, slots in zip(saved, present, strict=True)
        ]
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"'inits' of state_dict holds initial distributions that cannot be used: {error}") from None


def _loaded(entry: Any, own: SlotInit, *, weights: bool, biases: bool) -> SlotInit:
    reason = entry["reason"]
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a string, got {reason!r}")
    changes: dict[str, Any] = {}
    if weights:
        changes.update(weights=_load(entry["weights"], len(own.weights)), reason=reason)
    if biases:
        changes["biases"] = _load(entry["biases"], len(own.biases))
    return dataclasses.replace(own, **changes)


def _save(distributions: Sequence[Any]) -> list[list[Any]] | None:
    if not all(isinstance(each, Distribution) for each in distributions):
        return None  # a function
    return [[each.kind, each.scale] for each in distributions]


def _load(saved: Any, members: int) -> tuple[Distribution, ...]:
    if not isinstance(saved, list) or len(saved) != members:
        raise ValueError(f"there must be {members} for each slot")
    result = []
    for kind, scale in saved:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        minimum = float("-inf") if kind == "constant" else 0.0
        scale = finite_number("scale", scale, minimum=minimum)
        if abs(scale) > LARGEST_SCALE:
            raise ValueError(f"scale must be at most {LARGEST_SCALE:g}, got {scale!r}")
        result.append(Distribution(kind, scale))
    return tuple(result)
