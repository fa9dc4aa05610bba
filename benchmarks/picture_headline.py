"""The headline of a picture: one sentence that states what the comparison shows."""

from __future__ import annotations

from .display import Display
from .method_styles import LABELS
from .summary import MethodResults, best_results, first_and_last

LOST, KEPT = 0.2, 0.1  # relative loss from which a method counts as worse, and below which it does not
MOST_NAMED = 4  # methods that a headline without a statement names
NEAR_CHANCE = 0.1  # fraction of the distance from guessing to the first value


def headline(results: list[MethodResults], display: Display) -> str:
    """States whether backprop gets worse while continual backprop does not; otherwise the last values. For an
    experiment that does not show plasticity, the last values of the best methods.

    If several settings of a method were run, the best one counts.
    """
    found = best_results(results, display)
    ends = {method: first_and_last(result, display) for method, result in found.items()}
    if not display.plasticity:
        return _best_ends({method: last.mean for method, (_, last) in ends.items()}, display)
    if not {"backprop", "continual_backprop"} <= found.keys():
        texts = [f"{LABELS[method]} {display.main.text(last.mean)}" for method, (_, last) in ends.items()]
        return f"In the end: {', '.join(texts)}"
    losses = {method: _loss(first.mean, last.mean, display) for method, (first, last) in ends.items()}
    if losses["backprop"] > LOST and losses["continual_backprop"] < KEPT:
        if not display.higher_is_better:
            return "Backprop's error grows. Continual backprop's does not."
        first, last = (each.mean for each in ends["backprop"])
        if display.chance is not None and last - display.chance < NEAR_CHANCE * (first - display.chance):
            return "Backprop stops learning. Continual backprop keeps learning."
        return "Backprop learns less and less. Continual backprop keeps learning."
    plain, continual = (display.main.text(ends[method][1].mean) for method in ("backprop", "continual_backprop"))
    return f"In the end: continual backprop {continual}, backprop {plain}"


def _best_ends(ends: dict[str, float], display: Display) -> str:
    """The last values of the best methods, and of backprop, best first."""
    ranked = sorted(ends, key=lambda method: ends[method], reverse=display.higher_is_better)
    named = ranked[:MOST_NAMED]
    if "backprop" in ranked and "backprop" not in named:
        named[-1] = "backprop"
    return f"In the end: {', '.join(f'{LABELS[method]} {display.main.text(ends[method])}' for method in named)}"


def _loss(first: float, last: float, display: Display) -> float:
    """Relative decline from the first to the last value."""
    worse = first - last if display.higher_is_better else last - first
    return worse / abs(first) if first else 0.0
