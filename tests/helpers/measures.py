"""A few built-in measures that together read every signal, for tests that take long for each."""

from __future__ import annotations

from gnt.importance import MEASURES


def _covering() -> tuple[str, ...]:
    """Each measure that reads a signal that none before it reads, or is averaged in another way."""
    seen: set[object] = set()
    names = []
    for name, measure in MEASURES.items():
        aspects: set[object] = {*measure.reads, (measure.averaged, measure.corrected)}
        if not aspects <= seen:
            names.append(name)
            seen |= aspects
    return tuple(names)


COVERING_MEASURES = _covering()
