"""What a comparison shows, in one sentence made from its figures."""

from __future__ import annotations

from benchmarks.display import Display
from benchmarks.method_styles import LABELS
from benchmarks.summary import MethodResults, best_results, first_and_last

LOST, KEPT = 0.2, 0.1  # of the first figures: what is a loss that one must see, and what is none
NEAR_CHANCE = 0.1  # of what lies between guessing and the first figure


def headline(results: list[MethodResults], display: Display) -> str:
    """Whether backprop gets worse where continual backprop does not; else what both, or the only one, reach.

    Of a method with several choices of settings the best one counts.
    """
    found = best_results(results, display)
    ends = {method: first_and_last(result, display) for method, result in found.items()}
    if not {"backprop", "continual_backprop"} <= found.keys():
        texts = [f"{LABELS[method]} {display.main.text(last.mean)}" for method, (_, last) in ends.items()]
        return f"In the end: {', '.join(texts)}"
    losses = {method: _loss(first.mean, last.mean, display) for method, (first, last) in ends.items()}
    if losses["backprop"] > LOST and losses["continual_backprop"] < KEPT:
        if not display.higher_is_better:
            return "Backprop's error grows. Continual backprop's does not."
        first, last = (each.mean for each in ends["backprop"])
        if display.chance is not None and last - display.chance < NEAR_CHANCE * (first - display.chance):
            return "Backprop stops learning. Continual backprop goes on."
        return "Backprop learns less and less. Continual backprop goes on."
    plain, continual = (display.main.text(ends[method][1].mean) for method in ("backprop", "continual_backprop"))
    return f"In the end: continual backprop {continual}, backprop {plain}"


def _loss(first: float, last: float, display: Display) -> float:
    """How much worse the last is than the first, as a share of the first."""
    worse = first - last if display.higher_is_better else last - first
    return worse / abs(first) if first else 0.0
