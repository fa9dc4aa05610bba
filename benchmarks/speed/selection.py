"""What a command measures: workloads, variants, and the ratios between them."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import CannotRun
from ..value_checks import nearest
from .variants import VARIANTS, Variant, variants_of
from .workloads import GPU, GPU_WORKLOADS, QUICK_MATURITY, WORKLOADS, Workload


@dataclass(frozen=True)
class Ratio:
    """A ratio to be measured, and its target (the largest acceptable value)."""

    variant: str
    against: str
    target: float | None


@dataclass
class WorkloadPlan:
    """What is measured on one workload.

    Attributes:
        workload: the workload.
        variants: the variants that run.
        ratios: the ratios to be measured.
        left_out: variants that do not run -> reason.
    """

    workload: Workload
    variants: list[Variant]
    ratios: list[Ratio]
    left_out: dict[str, str] = field(default_factory=dict)


def select_workloads(only: Sequence[str], *, quick: bool, device: str = "cpu") -> list[WorkloadPlan]:
    """All workloads of a device, or the parts whose names match one of the patterns ``only``.

    Raises:
        CannotRun: a pattern matches no workload and no variant.
    """
    workloads = WORKLOADS if device == "cpu" else tuple(_gpu_version(one, device) for one in GPU_WORKLOADS)
    for pattern in only:
        if not any(_is_selected(one, variant.name, [pattern]) for one in workloads for variant in variants_of(one)):
            names = [*(one.name for one in workloads), *dict.fromkeys(one.name for one in VARIANTS)]
            raise CannotRun(f"--only: no workload and no variant matches {pattern!r}{nearest(pattern, names)}")
    named = [one for one in workloads if not one.long or any(_matches(one.name, pattern) for pattern in only)]
    asked = [_quick_version(one) for one in named] if quick else workloads
    plans = [_plan(one, only) for one in asked]
    return [plan for plan in plans if plan.ratios or plan.left_out]


def _plan(workload: Workload, only: Sequence[str]) -> WorkloadPlan:
    variants = variants_of(workload)
    names = {one.name for one in variants}
    reasons = {one.name: why for one in variants if (why := one.missing())}
    asked = [one for one in variants if _is_selected(workload, one.name, only)]
    ratios = [
        Ratio(one.name, peer, workload.targets.get(target or ""))
        for one in asked
        for peer, target in one.against
        if peer in names and not {one.name, peer} & reasons.keys()
    ]
    needed = {name for ratio in ratios for name in (ratio.variant, ratio.against)}
    left_out = {one.name: reasons[one.name] for one in asked if one.name in reasons}
    return WorkloadPlan(workload, [one for one in variants if one.name in needed], ratios, left_out)


def _is_selected(workload: Workload, variant: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches the workload's name, the variant's, or both as printed in logs."""
    names = (workload.name, variant, f"{workload.name}: {variant}")
    return not patterns or any(_matches(name, pattern) for pattern in patterns for name in names)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name.lower(), f"*{pattern.lower()}*")


def _gpu_version(workload: Workload, device: str) -> Workload:
    """The workload on a GPU, with a short warm-up."""
    maturity = min(workload.maturity, QUICK_MATURITY)
    return dataclasses.replace(workload, kind=GPU, device=device, maturity=maturity, graphs=False)


def _quick_version(workload: Workload) -> Workload:
    """The workload with a short warm-up; whole networks are compiled only if a target depends on it."""
    maturity = min(workload.maturity, QUICK_MATURITY)
    return dataclasses.replace(workload, maturity=maturity, graphs="graph" in workload.targets)
