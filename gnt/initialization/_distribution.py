"""`Distribution`: the kinds of initial distribution, and draws from them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["uniform", "normal", "truncated_normal", "orthogonal", "constant"]
KINDS: tuple[Kind, ...] = ("uniform", "normal", "truncated_normal", "orthogonal", "constant")

SMALL_STD = 0.02  # of the weights of GPT-2, BERT and vision transformers
CUT = 2.0  # a truncated normal ends at this many standard deviations
# of a standard normal that is cut there: the probability that is left, the variance, and the kurtosis
CUT_MASS = math.erf(CUT / math.sqrt(2.0))
_CUT_DENSITY = 2.0 * math.exp(-CUT * CUT / 2.0) / math.sqrt(2.0 * math.pi) / CUT_MASS
CUT_VARIANCE = 1.0 - CUT * _CUT_DENSITY
CUT_KURTOSIS = (3.0 - (CUT**3 + 3.0 * CUT) * _CUT_DENSITY) / CUT_VARIANCE**2

_SCALES = {
    "uniform": "uniform in [-{0:.4g}, {0:.4g}]",
    "normal": "normal with standard deviation {0:.4g}",
    "truncated_normal": f"normal with standard deviation {{0:.4g}}, cut at {CUT:g} of them",
    "orthogonal": "orthogonal with gain {0:.4g}",
    "constant": "{0:.4g}",
}


@dataclass(frozen=True)
class Distribution:
    """Distribution of the values of one parameter at initialization; all have mean 0 except "constant".

    Attributes:
        kind: "uniform" in [-scale, scale]; "normal" with standard deviation ``scale``; "truncated_normal": the same,
            cut at 2 standard deviations; "orthogonal": rows of a random orthogonal matrix, multiplied by ``scale``;
            "constant": ``scale`` itself.
        scale: see ``kind``.
        zero_row: index of a row that is 0; None if there is none.

    Raises:
        ValueError: an unknown kind; a scale that is not finite or, except for "constant", below 0.
    """

    kind: Kind
    scale: float
    zero_row: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {self.kind!r}")
        if not math.isfinite(self.scale) or (self.scale < 0 and self.kind != "constant"):
            allowed = "a finite number" if self.kind == "constant" else "a finite number >= 0"
            raise ValueError(f"scale of a {self.kind} distribution must be {allowed}, got {self.scale!r}")

    def fill_(self, values: Tensor, generator: torch.Generator, *, stored: torch.dtype, layer_rows: int) -> None:
        """Fill ``values`` with draws, in place.

        Args:
            values: the values of some rows of the layer, rows first.
            generator: generator on the device of ``values``.
            stored: dtype that the values are rounded to later; uniform and truncated draws are within their limits
                after that, too.
            layer_rows: number of rows of the whole layer, for "orthogonal".
        """
        if self.kind == "uniform":
            limit = representable(self.scale, stored)
            values.uniform_(-limit, limit, generator=generator)
        elif self.kind == "normal":
            values.normal_(0.0, self.scale, generator=generator)
        elif self.kind == "truncated_normal":
            limit = representable(CUT * self.scale, stored)
            values.uniform_(-CUT_MASS, CUT_MASS, generator=generator)
            values.erfinv_().mul_(math.sqrt(2.0) * self.scale).clamp_(-limit, limit)
        elif self.kind == "orthogonal":
            _fill_orthogonal(values, self.scale, generator, layer_rows)
        else:
            values.fill_(self.scale)

    def __str__(self) -> str:
        return _SCALES[self.kind].format(self.scale)


def _fill_orthogonal(values: Tensor, gain: float, generator: torch.Generator, layer_rows: int) -> None:
    """Fill ``values`` with rows of a new random orthogonal matrix of the whole layer's shape, times ``gain``.

    If the layer has at least as many inputs as rows, the rows drawn together are orthonormal. Otherwise the columns of
    the whole matrix are: the rows are then those of a square orthogonal matrix, of which only the first columns are
    kept. Few rows are drawn without the rest of the matrix.
    """
    rows, inputs = len(values), values[0].numel() if len(values) else 0
    if not rows or not inputs:
        return
    size = max(inputs, layer_rows)
    normal = torch.empty(rows, size, dtype=values.dtype, device=values.device).normal_(generator=generator)
    # the decomposition is unique, and its orthogonal part uniformly distributed, once the diagonal is positive
    q, r = torch.linalg.qr(normal.T)
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    values.copy_((gain * q[:inputs].T).reshape(values.shape))


@functools.lru_cache
def representable(limit: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that does not exceed ``limit``, so that rounded weights stay within it."""
    rounded = torch.tensor(limit, dtype=dtype, device="cpu")
    if rounded.item() > limit:
        rounded = torch.nextafter(rounded, torch.zeros_like(rounded))
    return rounded.item()
