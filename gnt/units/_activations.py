"""Activations: how they are named, recognised in a network, and the gain they give to fresh weights.

An activation is a pair: its name and, for the leaky kinds, its slope (otherwise None). The gain of an activation keeps
the variance of a layer through it. It is torch's own for the kinds that `torch.nn.init.calculate_gain` knows, and that
of relu for the smooth relatives of relu (elu, silu, gelu, mish, ...), as in the published code and common practice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

Activation = tuple[str, float | None]

GAINS: dict[str, float] = {
    "identity": 1.0,
    "sigmoid": 1.0,
    "hardsigmoid": 1.0,
    "softsign": 1.0,
    "tanh": 5.0 / 3.0,
    "hardtanh": 5.0 / 3.0,
    "selu": 0.75,
    **dict.fromkeys(("relu", "relu6", "elu", "celu", "silu", "gelu", "mish", "hardswish", "softplus"), math.sqrt(2.0)),
}
LEAKY: dict[str, float] = {"leaky_relu": 0.01, "rrelu": (1 / 8 + 1 / 3) / 2, "prelu": 0.25}  # with torch's slopes
_ALIASES = {"linear": "identity", "swish": "silu", "leakyrelu": "leaky_relu", "none": "identity"}

_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky_relu", nn.RReLU: "rrelu", nn.PReLU: "prelu", nn.ELU: "elu",
    nn.CELU: "celu", nn.SELU: "selu", nn.SiLU: "silu", nn.GELU: "gelu", nn.Mish: "mish", nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid", nn.Hardtanh: "hardtanh", nn.Hardsigmoid: "hardsigmoid", nn.Hardswish: "hardswish",
    nn.Softplus: "softplus", nn.Softsign: "softsign",
}  # fmt: skip


def activation_names() -> list[str]:
    """Names of the activations that have a gain, sorted."""
    return sorted([*GAINS, *LEAKY, *(a for a in _ALIASES if a != "none")])


def parse_activation(name: str) -> Activation:
    """The activation of a name given by the user; case does not matter and common aliases are known.

    Raises:
        TypeError: not a string.
        ValueError: an unknown name; the message lists the known names.
    """
    if not isinstance(name, str):
        raise TypeError(f"activation must be a name, one of {', '.join(activation_names())}, or None, got {name!r}")
    key = name.lower()
    key = _ALIASES.get(key, key)
    if key in GAINS:
        return key, None
    if key in LEAKY:
        return key, LEAKY[key]
    raise ValueError(f"unknown activation {name!r}; known are {', '.join(activation_names())}")


def identify_activation(layer: nn.Module | Callable[..., Any]) -> Activation | None:
    """The activation that a module, or a plain function such as ``F.relu``, computes; None if it is not a known one."""
    if isinstance(layer, nn.Module):
        name = _MODULES.get(type(layer))
        if name is None:
            return None
        if isinstance(layer, nn.LeakyReLU):
            return name, layer.negative_slope
        if isinstance(layer, nn.RReLU):
            return name, (layer.lower + layer.upper) / 2
        return parse_activation(name)
    function_name = getattr(layer, "__name__", "").rstrip("_")
    is_torch = (getattr(layer, "__module__", None) or "torch").startswith("torch")
    return parse_activation(function_name) if is_torch and function_name in {*GAINS, *LEAKY} else None


def activation_gain(activation: Activation) -> float | None:
    """Gain for the standard deviation of fresh weights, or None for an unknown activation.

    For the leaky kinds it is sqrt(2 / (1 + slope^2)).
    """
    name, slope = activation
    if name in LEAKY:
        return math.sqrt(2.0 / (1.0 + (slope or 0.0) ** 2))
    return GAINS.get(name)
