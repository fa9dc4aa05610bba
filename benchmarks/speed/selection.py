"""What a command measures: workloads, entrants, and the figures that come of them."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.errors import CannotRun
from benchmarks.speed.variants import VARIANTS, Variant, variants_of
from benchmarks.speed.workloads import QUICK_MATURITY, WORKLOADS, Workload
from benchmarks.value_checks import nearest


@dataclass(frozen=True)
class Ratio:
    """A ratio to be measured, and what it should be at most."""

    entrant: str
    against: str
    target: float | None


@dataclass
class WorkloadPlan:
    """One workload's part.

    Attributes:
        workload: the workload.
        entrants: who runs.
        figures: what is compared.
        left_out: who does not run, and why.
    """

    workload: Workload
    entrants: list[Variant]
    figures: list[Ratio]
    left_out: dict[str, str] = field(default_factory=dict)


def select_workloads(only: Sequence[str], *, quick: bool) -> list[WorkloadPlan]:
    """All workloads, or those parts whose names hold one of the patterns ``only``.

    Raises:
        CannotRun: a pattern that fits no workload and no entrant.
    """
    for pattern in only:
        if not any(_fits(one, entrant.name, [pattern]) for one in WORKLOADS for entrant in variants_of(one)):
            names = [*(one.name for one in WORKLOADS), *dict.fromkeys(one.name for one in VARIANTS)]
            raise CannotRun(f"--only: no workload and no entrant fits {pattern!r}{nearest(pattern, names)}")
    named = [one for one in WORKLOADS if not one.long or any(_matches(one.name, pattern) for pattern in only)]
    asked = [_quick_version(one) for one in named] if quick else WORKLOADS
    plans = [_plan(one, only) for one in asked]
    return [plan for plan in plans if plan.figures or plan.left_out]


def _plan(workload: Workload, only: Sequence[str]) -> WorkloadPlan:
    entrants = variants_of(workload)
    there = {one.name for one in entrants}
    why_not = {one.name: why for one in entrants if (why := one.missing())}
    asked = [one for one in entrants if _fits(workload, one.name, only)]
    figures = [
        Ratio(one.name, peer, workload.targets.get(target or ""))
        for one in asked
        for peer, target in one.against
        if peer in there and not {one.name, peer} & why_not.keys()
    ]
    needed = {name for figure in figures for name in (figure.entrant, figure.against)}
    left_out = {one.name: why_not[one.name] for one in asked if one.name in why_not}
    return WorkloadPlan(workload, [one for one in entrants if one.name in needed], figures, left_out)


def _fits(workload: Workload, entrant: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern is found in the workload's name or in the entrant's, or in the two as printed in logs."""
    names = (workload.name, entrant, f"{workload.name}: {entrant}")
    return not patterns or any(_matches(name, pattern) for pattern in patterns for name in names)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name.lower(), f"*{pattern.lower()}*")


def _quick_version(workload: Workload) -> Workload:
    """With a short warm-up, and networks compiled only where a target says so."""
    maturity = min(workload.maturity, QUICK_MATURITY)
    return dataclasses.replace(workload, maturity=maturity, graphs="graph" in workload.targets)
