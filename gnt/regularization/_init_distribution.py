"""What a parameter's initial distribution is, for the modules of torch of which it is known.

A fresh parameter is either uniform in [-bound, bound], normal, or one number: then that number is its "draw".
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from gnt.learners.ensemble.layers import MemberLinear, MemberNorm
from gnt.replacement.reinitialization import FRESH_PRELU, FRESH_SCALES


class Fresh(NamedTuple):
    """A distribution: uniform in [-scale, scale], normal with deviation ``scale``, or ``scale`` itself; the row
    ``padding`` is 0.
    """

    kind: Literal["uniform", "normal", "constant"]
    scale: float
    padding: int | None = None


_FAN_IN = (nn.Linear, _ConvNd, MemberLinear)
_CONSTANT = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, MemberNorm)
KNOWN = "Linear, Conv and ConvTranspose (1d to 3d), the norms, PReLU and Embedding"


def initial(module: nn.Module, key: str) -> Fresh | None:
    """How torch draws the parameter ``key`` of a fresh module of this kind; None where that is not known.

    Linear and convolution layers, weight and bias: uniform, bound 1 / sqrt(fan_in). Norms: weight 1, bias 0. PReLU:
    0.25. Embedding: normal, the row of its padding_idx 0.
    """
    if isinstance(module, _FAN_IN) and key in ("weight", "bias"):
        weight = module.weight
        fan_in = weight.shape[1] * math.prod(weight.shape[2:])  # torch's own for transposed convolutions, too
        return Fresh("uniform", 1.0 / math.sqrt(fan_in) if fan_in else 0.0)
    if isinstance(module, _CONSTANT) and key in FRESH_SCALES:
        return Fresh("constant", FRESH_SCALES[key])
    if isinstance(module, nn.PReLU) and key in FRESH_PRELU:
        return Fresh("constant", FRESH_PRELU[key])
    if isinstance(module, nn.Embedding) and key == "weight":
        return Fresh("normal", 1.0, module.padding_idx)
    return None
