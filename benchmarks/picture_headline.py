"""The headline of a picture: one sentence that states what the comparison shows."""

from __future__ import annotations

from .display import Display
from .method_names import MAIN_METHODS
from .method_styles import LABELS
from .summary import MethodResults, best_results, first_and_last

LOST, KEPT = 0.2, 0.1  # relative loss from which a method counts as worse, and below which it does not
MOST_NAMED = 4  # methods that a headline without a statement names
NEAR_CHANCE = 0.1  # fraction of the distance from guessing to the first value


def headline(results: list[MethodResults], display: Display) -> str:
    """States whether backprop gets worse while others do not: continual backprop, and all methods that end about as
    well or better. Otherwise the last values of the best methods, and of these two.

    If several settings of a method were run, the best one counts.
    """
    found = best_results(results, display)
    ends = {method: first_and_last(result, display) for method, result in found.items()}
    lasts = {method: last.mean for method, (_, last) in ends.items()}
    if not (display.plasticity and set(MAIN_METHODS) <= found.keys()):
        return _best_ends(lasts, display)
    losses = {method: _loss(first.mean, last.mean, display) for method, (first, last) in ends.items()}
    alike = [method for method in lasts if _loss(lasts["continual_backprop"], lasts[method], display) < KEPT]
    if losses["backprop"] <= LOST or any(losses[method] >= KEPT for method in alike):
        return _best_ends(lasts, display)
    names = _listed(_ranked({method: lasts[method] for method in alike}, display, "continual_backprop"))
    one, capital = len(alike) == 1, names[0].upper() + names[1:]
    if not display.higher_is_better:
        return (
            f"Backprop's error grows. {capital}'s does not." if one else f"Backprop's error grows, not that of {names}."
        )
    keep = f"{capital} {'keeps' if one else 'keep'} learning."
    first, last = (each.mean for each in ends["backprop"])
    if display.chance is not None and last - display.chance < NEAR_CHANCE * (first - display.chance):
        return f"Backprop stops learning. {keep}"
    return f"Backprop learns less and less. {keep}"


def _ranked(lasts: dict[str, float], display: Display, *always: str) -> list[str]:
    """The best methods, best first, at most `MOST_NAMED`, with those of ``always`` among them; "" for left out ones."""
    ranked = sorted(lasts, key=lambda method: lasts[method], reverse=display.higher_is_better)
    needed = [method for method in always if method in lasts]
    others = [method for method in ranked if method not in needed][: MOST_NAMED - len(needed)]
    return [method if method in needed or method in others else "" for method in ranked]


def _listed(methods: list[str]) -> str:
    """Their names as words; a number for those left out."""
    names = [LABELS[method] for method in methods if method]
    left_out = len(methods) - len(names)
    if left_out:
        names.append(f"{left_out} other{'s' if left_out > 1 else ''}")
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _best_ends(lasts: dict[str, float], display: Display) -> str:
    """The last values of the best methods, and of the main ones, best first."""
    always = MAIN_METHODS if display.plasticity else MAIN_METHODS[:1]
    named = [method for method in _ranked(lasts, display, *always) if method]
    return f"In the end: {', '.join(f'{LABELS[method]} {display.main.text(lasts[method])}' for method in named)}"


def _loss(first: float, last: float, display: Display) -> float:
    """Relative decline from the first to the last value."""
    worse = first - last if display.higher_is_better else last - first
    return worse / abs(first) if first else 0.0
