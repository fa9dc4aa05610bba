"""Which known distribution fits present values: do a layer's weights look like a draw from it?

A distribution fits if

    support      no value is outside its limits
    scale        its likelihood is at most `TOLERANCE` below that of the same kind with the best scale
    shape        the empirical distribution function is close to its own (Kolmogorov-Smirnov), and so is the kurtosis
    equal rows   rows and columns differ in size no more than those of independent draws; those of trained weights do
    orthogonal   rows (or columns, if there are fewer) have the same length, and no product

Of those within support and scale the one with the highest likelihood is tested further. The layer's own in torch has an
advantage, because few weights say little. Each test is passed by true draws but for about one layer in 100,000.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gnt.initialization._distribution import CUT, CUT_KURTOSIS, CUT_MASS, CUT_VARIANCE, Distribution

TOLERANCE = 14.0  # of the log-likelihood: one draw in a million is further below
ADVANTAGE = 10.0  # of the layer's own distribution over others, and of those with a name over measured ones
MEASURED_FROM = 256  # fewer values do not tell a normal distribution of any scale from trained weights
_SIDE = 256  # rows and columns that are looked at; limits and orthogonality use all values, or whole rows
_ORTHOGONAL_ROWS = 16
_MEASURED_DIGITS = 5

_KURTOSIS = {"uniform": 1.8, "normal": 3.0, "truncated_normal": CUT_KURTOSIS}
# variance of a normal distribution's estimated kurtosis, times the number of values
_KURTOSIS_VARIANCE = {"normal": 24.0, "truncated_normal": 3.8}
_VARIANCE = {"uniform": 1.0 / 3.0, "normal": 1.0, "truncated_normal": CUT_VARIANCE}


@dataclass(frozen=True)
class Sample:
    """Values of a weight (or bias), in float64 on the host.

    Attributes:
        values: evenly spaced rows and columns, at most `_SIDE` of each.
        largest: the largest magnitude of all values.
        count: number of all values.
        lines: the first rows, whole; or columns, if the matrix has fewer.
        eps: relative error of values that were rounded to the weight's dtype.
    """

    values: Tensor
    largest: float
    count: int
    lines: Tensor
    eps: float

    @classmethod
    def read(cls, weight: Tensor) -> Sample:
        """Sample a matrix (rows, inputs); reads the device once."""
        rows, inputs = weight.shape
        part = weight[:: -(-rows // _SIDE), :: -(-inputs // _SIDE)]
        lines = weight[:_ORTHOGONAL_ROWS] if rows <= inputs else weight[:, :_ORTHOGONAL_ROWS].T
        limits = torch.stack(weight.aminmax()).abs()
        host = torch.cat([part.flatten(), lines.flatten(), limits.to(weight.dtype)]).cpu().double()
        values, lines_read, limits_read = torch.split(host, [part.numel(), lines.numel(), 2])
        return cls(
            values.view(part.shape),
            limits_read.max().item(),
            weight.numel(),
            lines_read.view(lines.shape),
            2.0 * torch.finfo(weight.dtype).eps,
        )


def fit(sample: Sample, own: Distribution | None, others: Mapping[Distribution, float]) -> Distribution | None:
    """The distribution that fits, or None.

    Besides those given, it may be orthogonal with any gain or, if there are enough values, normal with any standard
    deviation; both are then measured.

    Args:
        sample: the values.
        own: the layer's own distribution in torch.
        others: further distributions, of kind uniform, normal or truncated normal, with their disadvantages: the
            larger, the more likely the values must be under it.
    """
    zeros = int((sample.values == 0.0).sum())
    if not math.isfinite(sample.largest) or sample.largest == 0.0 or zeros > 1 + sample.values.numel() // 1000:
        return None
    gain = orthogonal_gain(sample)
    if gain is not None:
        return Distribution("orthogonal", _rounded(gain))
    mean_square = sample.values.square().mean().item()
    candidates = [(own, ADVANTAGE)] if own is not None and own.kind in _KURTOSIS else []
    candidates += [(each, -disadvantage) for each, disadvantage in others.items()]
    if sample.values.numel() >= MEASURED_FROM:
        # a measured scale has the best likelihood of its kind, by up to the tolerance
        candidates.append((Distribution("normal", _rounded(math.sqrt(mean_square))), -TOLERANCE - ADVANTAGE))
    scored = [
        (_log_likelihood(each, sample, mean_square) + advantage, each)
        for each, advantage in candidates
        if _has_scale(each, sample, mean_square)
    ]
    if not scored:
        return None
    best = max(scored, key=lambda entry: entry[0])[1]
    tests = (_has_shape, _has_kurtosis, _has_equal_rows)
    return best if all(passes(best, sample, mean_square) for passes in tests) else None


def constant_value(sample: Sample) -> float | None:
    """The value that all values have; None if they differ, or if a single value, which is not 0, says nothing."""
    first = sample.values.flatten()[0].item()
    alike = bool((sample.values == first).all()) and abs(first) == sample.largest
    return first if alike and (sample.count > 1 or first == 0.0) else None


def orthogonal_gain(sample: Sample) -> float | None:
    """The common length of rows (or columns) if they are orthogonal, otherwise None.

    Lengths and products of random rows differ from those of orthogonal ones by 1 in the units used here.
    """
    products = sample.lines @ sample.lines.T
    rows, size = len(products), sample.lines.shape[1]
    square = products.diagonal().mean()
    if rows < 2 or not square > 0.0:
        return None
    lengths = (products.diagonal() / square - 1.0).square().mean() * (size / 2.0)
    off_diagonal = products.square().sum() - products.diagonal().square().sum()
    angles = off_diagonal / square**2 / (rows * (rows - 1)) * size
    limit = max(1e-3, 4.0 * sample.eps) ** 2
    return math.sqrt(square) if lengths <= limit and angles <= limit else None


def _rounded(value: float) -> float:
    """The value with few digits, so that the order of summation does not matter."""
    return float(f"{value:.{_MEASURED_DIGITS}g}")


def _limit(distribution: Distribution) -> float:
    """The largest possible magnitude."""
    return {"uniform": 1.0, "truncated_normal": CUT}.get(distribution.kind, math.inf) * distribution.scale


def _has_scale(distribution: Distribution, sample: Sample, mean_square: float) -> bool:
    if distribution.scale <= 0.0:
        return False
    excess = sample.largest / _limit(distribution)
    if excess > 1.0 + sample.eps:
        return False
    if distribution.kind == "uniform":
        return -sample.count * math.log(min(1.0, excess * (1.0 + sample.eps))) <= TOLERANCE
    ratio = mean_square / (_VARIANCE[distribution.kind] * distribution.scale**2)
    distance = (ratio - 1.0 - math.log(ratio)) / (_KURTOSIS[distribution.kind] - 1.0)
    return sample.values.numel() * distance <= TOLERANCE


def _log_likelihood(distribution: Distribution, sample: Sample, mean_square: float) -> float:
    scale, count = distribution.scale, sample.values.numel()
    if distribution.kind == "uniform":
        return -count * math.log(2.0 * scale)
    mass = CUT_MASS if distribution.kind == "truncated_normal" else 1.0
    return -count * (math.log(scale * mass * math.sqrt(2.0 * math.pi)) + mean_square / (2.0 * scale**2))


def _has_shape(distribution: Distribution, sample: Sample, mean_square: float) -> bool:
    """Kolmogorov-Smirnov test."""
    ordered = sample.values.flatten().sort().values / distribution.scale
    if distribution.kind == "uniform":
        expected = (ordered.clamp(-1.0, 1.0) + 1.0) / 2.0
    else:
        half = torch.erf(ordered / math.sqrt(2.0)) / 2.0
        expected = 0.5 + (half / CUT_MASS if distribution.kind == "truncated_normal" else half)
    count = len(ordered)
    steps = torch.arange(count + 1, dtype=torch.float64, device="cpu") / count
    distance = torch.maximum((steps[1:] - expected).max(), (expected - steps[:-1]).max()).item()
    return distance <= 2.6 / math.sqrt(count) + sample.eps


def _has_kurtosis(distribution: Distribution, sample: Sample, mean_square: float) -> bool:
    """Compare the kurtosis with that of a normal distribution: a sum of uniform and trained parts has less."""
    variance = _KURTOSIS_VARIANCE.get(distribution.kind)
    if variance is None:
        return True
    kurtosis = sample.values.pow(4).mean().item() / mean_square**2
    deviation = (kurtosis - _KURTOSIS[distribution.kind]) * math.sqrt(sample.values.numel() / variance)
    return -4.5 <= deviation <= 9.0  # estimates of few values are skewed


def _has_equal_rows(distribution: Distribution, sample: Sample, mean_square: float) -> bool:
    """Compare the mean squares of rows, and of columns, with those of independent draws."""
    spread = _KURTOSIS[distribution.kind] - 1.0  # variance of a squared value over its squared mean
    for values in (sample.values, sample.values.T):
        rows, size = values.shape
        if rows < 2 or size < 16:
            continue
        deviation = (values.square().mean(1) / mean_square - 1.0).square().mean().item() * size / spread
        if deviation > 1.0 + 8.0 * math.sqrt((2.0 + 12.0 / size) / rows):
            return False
    return True
