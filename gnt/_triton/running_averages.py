"""The last kernel of an engine's update: the measured values enter the running averages; ages; values not finite.

One launch for all groups. The equivalent in torch operations is `SharedState.advance`.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, import-not-found, misc"
# ruff: noqa: SIM108 (a conditional expression would be evaluated at run time)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def age_correction(age, decay: tl.constexpr, log_decay: tl.constexpr, tiny: tl.constexpr, scalar: tl.constexpr):
    """1 - decay^age, at least the smallest positive number."""
    age = age.to(tl.float64)
    if decay == 0.0:
        total = tl.minimum(age, 1.0)
    else:
        total = 1.0 - tl.exp(age * log_decay)
    return tl.maximum(total, tiny).to(scalar)


@triton.jit
def _is_finite(x):
    return tl.abs(x) < float("inf")  # False for NaN


@triton.jit
def _lerp(start, end, amount: tl.constexpr, scalar: tl.constexpr):
    """As torch computes it."""
    if amount < 0.5:
        result = start + (end - start) * amount
    else:
        result = end - (end - start) * (1.0 - amount)
    return result.to(scalar)


@triton.jit
def advance(
    states,
    averages,
    measured,
    born,
    last_active,
    nonfinite,
    updates,
    num_features,
    every: tl.constexpr,
    decay: tl.constexpr,
    log_decay: tl.constexpr,
    tiny: tl.constexpr,
    corrected: tl.constexpr,
    scalar: tl.constexpr,
    block: tl.constexpr,
):
    """One update of one group: the measured values enter the running averages. Grid: (groups,).

    ``decay`` is that of ``every`` updates, of which one is measured.

    If a value of the group is not finite, its corrected averages do not change, and ``nonfinite`` counts.
    """
    group = tl.program_id(0)
    first = tl.load(states + 2 * group)
    units = tl.load(states + 2 * group + 1)
    before = tl.load(updates + group)
    now = before + 1
    bad = tl.zeros((block,), dtype=tl.int32)
    for start in range(0, units, block):
        at = start + tl.arange(0, block)
        mask = at < units
        feature = tl.load(measured + first + at, mask=mask, other=0.0)
        value = tl.load(measured + num_features + first + at, mask=mask, other=0.0)
        bad += ((_is_finite(feature) & _is_finite(value)) == 0).to(tl.int32)
    is_bad = tl.sum(bad, 0) > 0
    for start in range(0, units, block):
        at = start + tl.arange(0, block)
        mask = at < units
        feature_at = first + at
        value_at = num_features + first + at
        feature = tl.load(measured + feature_at, mask=mask, other=0.0)
        value = tl.load(measured + value_at, mask=mask, other=0.0)
        mean_feature = tl.load(averages + feature_at, mask=mask, other=0.0)
        utility = tl.load(averages + value_at, mask=mask, other=0.0)
        if is_bad:
            age = before // every - tl.load(born + first + at, mask=mask, other=0) // every
            correction = age_correction(age, decay, log_decay, tiny, scalar)
            feature = mean_feature / correction
            if corrected:
                value = utility / correction
            else:
                value = utility
            tl.store(measured + feature_at, feature, mask=mask)
            tl.store(measured + value_at, value, mask=mask)
        else:
            tl.store(last_active + first + at, tl.zeros((block,), dtype=tl.int64) + now, mask=mask & (feature != 0))
        tl.store(averages + feature_at, _lerp(mean_feature, feature, 1.0 - decay, scalar), mask=mask)
        tl.store(averages + value_at, _lerp(utility, value, 1.0 - decay, scalar), mask=mask)
    tl.store(updates + group, now)
    if is_bad:
        tl.store(nonfinite + group, tl.load(nonfinite + group) + 1)
