"""What a comparison shows, in one sentence made from its figures."""

from __future__ import annotations

from benchmarks.display import Display
from benchmarks.summary import Line, first_and_last

LOST, KEPT = 0.2, 0.1  # of the first figures: what is a loss that one must see, and what is none


def headline(lines: list[Line], display: Display) -> str:
    """Whether backprop gets worse where continual backprop does not; else what both, or the only one, reach."""
    by_method = {line.method: line for line in reversed(lines)}  # of several choices of settings the first
    ends = {method: first_and_last(line, display) for method, line in by_method.items()}
    losses = {method: _loss(first.mean, last.mean, display) for method, (first, last) in ends.items()}
    if {"backprop", "continual_backprop"} <= losses.keys():
        if losses["backprop"] > LOST and losses["continual_backprop"] < KEPT:
            if display.higher_is_better:
                return "Backprop learns less and less. Continual backprop goes on."
            return "Backprop's error grows. Continual backprop's does not."
        shown = ("backprop", "continual_backprop")
    else:
        shown = (lines[0].method,)
    texts = [f"{by_method[method].label} {display.main.text(ends[method][1].mean)}" for method in shown]
    return f"In the end: {', '.join(texts)}"


def _loss(first: float, last: float, display: Display) -> float:
    """How much worse the last is than the first, as a share of the first."""
    worse = first - last if display.higher_is_better else last - first
    return worse / abs(first) if first else 0.0
