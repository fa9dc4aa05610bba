"""From learning curves to a verdict: how much of a fresh network's learning the present network misses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gnt.diagnosis._statistics import Estimate, estimate

# shares of a fresh network's progress
SOME = 0.1
SEVERE = 0.5

PRESENT, FRESH, FRESH_HEAD = "present", "fresh", "fresh head"
COPIES = (PRESENT, FRESH, FRESH_HEAD)


@dataclass(frozen=True)
class Gaps:
    """How far copies are behind the fresh one, from curves (seeds, steps) of loss or error.

    Attributes:
        start: the fresh network's value before it has learned: the mean over its first three steps (1% of the
            steps if these are more, a tenth if they are fewer).
        fresh, present, fresh_head: means over steps and seeds.
        gap, gap_at_end: present minus fresh, as a mean over all steps and over the last quarter.
        lost: the share of the fresh network's progress that the present one misses: the gap over all steps, over what
            the fresh network gains, start minus its mean. Values above ``start`` count as ``start``, so that a network
            that learns nothing has lost 1, however wrong it begins; negative values: the present network is ahead.
        lost_at_end: the same over the last quarter of the steps.
        lost_fresh_head: ``lost`` of the present network with a fresh head.
        progress: start minus the fresh network's value over the last quarter.
    """

    start: float
    fresh: float
    present: float
    fresh_head: float
    gap: Estimate
    gap_at_end: Estimate
    lost: Estimate
    lost_at_end: Estimate
    lost_fresh_head: Estimate
    progress: Estimate


def find_gaps(curves: Mapping[str, Tensor]) -> Gaps:
    """The gaps between the curves of `COPIES`, paired over seeds; values that are not finite count as no progress."""
    fresh = curves[FRESH]
    steps = fresh.shape[1]
    first = fresh[:, : max(1, min(3, steps // 10), steps // 100)]
    start = float(first[first.isfinite()].mean()) if bool(first.isfinite().any()) else 0.0
    raw = {name: torch.where(curve.isfinite(), curve, start) for name, curve in curves.items()}
    capped = {name: curve.clamp(max=start) for name, curve in raw.items()}
    end = slice(-max(1, steps // 4), None)
    gained, gained_at_end = start - float(capped[FRESH].mean()), start - float(capped[FRESH][:, end].mean())

    def behind(values: Mapping[str, Tensor], copy: str, over: float = 1.0, part: slice = slice(None)) -> Estimate:
        difference = (values[copy][:, part] - values[FRESH][:, part]).mean(1)
        return estimate((difference / over if over > 0 else difference * 0.0).tolist())

    return Gaps(
        start=start,
        fresh=float(raw[FRESH].mean()),
        present=float(raw[PRESENT].mean()),
        fresh_head=float(raw[FRESH_HEAD].mean()),
        gap=behind(raw, PRESENT),
        gap_at_end=behind(raw, PRESENT, part=end),
        lost=behind(capped, PRESENT, gained),
        lost_at_end=behind(capped, PRESENT, gained_at_end, end),
        lost_fresh_head=behind(capped, FRESH_HEAD, gained),
        progress=estimate((start - raw[FRESH][:, end].mean(1)).tolist()),
    )


def judge(gaps: Gaps) -> str:
    """The verdict: "none", "some", "severe" or "unclear".

    unclear    the fresh network makes no progress either (the interval of ``progress`` reaches 0), or the interval of
               ``lost`` reaches from 0 to a severe loss
    some       the interval of ``lost`` lies above 0, and its mean is at least 0.1: less is seldom worth a remedy
    severe     so, and ``lost``, ``lost_at_end`` and ``lost_fresh_head`` are at least 0.5: the network makes less than
               half of a fresh one's progress, does not catch up, and the output layer is not the only reason
    none       otherwise
    """
    if gaps.progress.low <= 0.0:
        return "unclear"
    if gaps.lost.low > 0.0 and gaps.lost.mean >= SOME:
        worst = min(gaps.lost.mean, gaps.lost_at_end.mean, gaps.lost_fresh_head.mean)
        return "severe" if worst >= SEVERE else "some"
    return "unclear" if gaps.lost.high >= SEVERE else "none"


def sentence(verdict: str, gaps: Gaps, steps: int) -> str:
    """The verdict in words."""
    low, lost, high = gaps.lost.low, gaps.lost.mean, gaps.lost.high
    if round(100 * lost) < 0:
        low, lost, high = -high, -lost, -low
        behind = f"is ahead of a fresh one by {_percent(lost)} of its progress"
    else:
        behind = f"misses {_percent(lost)} of a fresh network's progress"
    interval = f"95% interval {_percent(low)} to {_percent(high)}"
    if verdict == "unclear":
        if gaps.progress.low <= 0.0:
            return (
                f"Unclear: a fresh network does not learn this in {steps} steps either. Take more steps, a larger "
                "learning rate, or fewer batches."
            )
        return f"Unclear: the present network {behind} ({interval}). Take more seeds."
    if verdict == "none":
        if gaps.lost.high < 0.0:
            return (
                f"No loss of plasticity: the present network learns faster than a fresh one, by {-gaps.lost.mean:.0%}."
            )
        return f"No loss of plasticity: the present network {behind} ({interval})."
    text = (
        f"{'Severe' if verdict == 'severe' else 'Some'} loss of plasticity: the present network misses "
        f"{_percent(lost)} of the progress that a fresh one makes in {steps} steps ({interval})"
    )
    if gaps.lost_at_end.mean < SOME:
        return text + "; by the end it has nearly caught up."
    if gaps.lost_fresh_head.mean < gaps.lost.mean / 2:
        return text + "; most of it is due to the output layer, for with a fresh one it learns better."
    return text + "."


def _percent(share: float) -> str:
    return f"{round(100 * share)}%"
