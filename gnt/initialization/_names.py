"""Initial distributions by name, for the units of one layer.

With g the gain of the group's activation, and the fan-in (in / groups times the kernel size for a convolution) and
fan-out of one unit:

    default            uniform in +-1 / sqrt(fan_in)                   torch's own for linear and convolution layers
    xavier             uniform in +-g * sqrt(6 / (fan_in + fan_out))   Glorot & Bengio 2010
    lecun              uniform in +-sqrt(3 / fan_in)                   LeCun et al. 1998
    kaiming            uniform in +-g * sqrt(3 / fan_in)               He et al. 2015
    xavier_normal, lecun_normal, kaiming_normal   normal with the same variances
    normal             normal with standard deviation 0.02             GPT-2, BERT
    truncated_normal   the same, cut at 2 standard deviations
    orthogonal         rows of an orthogonal matrix, times g           Saxe et al. 2014

For selu, those with a gain, and default, are lecun's, and orthogonal has gain 1: its weights need variance 1 / fan_in.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor

from gnt.initialization._distribution import SMALL_STD, Distribution
from gnt.names import BiasInit, InitName
from gnt.units import Activation, Slot, activation_gain, activation_names, input_groups

Fill = Callable[[Tensor, Slot, torch.Generator], Any]
Init = InitName | Fill

UNIFORM = ("default", "xavier", "lecun", "kaiming")
NORMAL = ("xavier_normal", "lecun_normal", "kaiming_normal")
INITS = (*UNIFORM, *NORMAL, "normal", "truncated_normal", "orthogonal")
BIAS_INITS = get_args(BiasInit)

SELU: Activation = ("selu", None)


def check_init(init: Any) -> None:
    """Raise an error unless ``init`` is a name or a function (tensor, slot, generator).

    Raises:
        ValueError: another value.
        TypeError: a function that does not take three positional arguments.
    """
    if isinstance(init, str) and init in ("auto", *INITS):
        return
    if isinstance(init, str) or not callable(init):
        raise ValueError(
            f"init must be one of auto, {', '.join(INITS)}, or a function (tensor, slot, generator), got {init!r}"
        )
    try:
        signature = inspect.signature(init)
    except ValueError:  # a built-in function
        return
    try:
        signature.bind("tensor", "slot", "generator")
    except TypeError as error:
        raise TypeError(
            f"init must be a name or a function that takes (tensor, slot, generator), got {init_name(init)}{signature}:"
            f" {error}"
        ) from None


def init_name(init: Init) -> str:
    """The name of an initial distribution, as it is written in a call; for a function its qualified name."""
    if isinstance(init, str):
        return repr(init)
    name = getattr(init, "__qualname__", None)
    return f"{init.__module__}.{name}" if name is not None else repr(init)


def named_distribution(name: str, slot: Slot, activation: Activation | None, group: str) -> Distribution:
    """The distribution with this name for the units at ``slot``.

    Args:
        name: one of `INITS`.
        slot: the slot of a producer.
        activation: its activation; None if it is unknown.
        group: name of the group, for errors.

    Raises:
        ValueError: an unknown name, or one that needs the gain of an unknown activation.
    """
    if name not in INITS:
        raise ValueError(f"the name of a distribution must be one of {', '.join(INITS)}, got {name!r}")
    if name in UNIFORM:
        return Distribution("uniform", uniform_bound(name, slot, activation, group))
    if name in NORMAL:
        # the variance of a uniform distribution is a third of its bound squared
        bound = uniform_bound(name.removesuffix("_normal"), slot, activation, group)
        return Distribution("normal", bound / math.sqrt(3.0))
    if name == "orthogonal":
        return Distribution("orthogonal", 1.0 if activation == SELU else _gain(activation, group, name))
    return Distribution("normal" if name == "normal" else "truncated_normal", SMALL_STD)


def uniform_bound(name: str, slot: Slot, activation: Activation | None, group: str) -> float:
    """Bound of the uniform distribution with this name.

    Raises:
        ValueError: the name is not one of `UNIFORM`, or needs the gain of an unknown activation.
    """
    if name not in UNIFORM:
        raise ValueError(f"the name of a uniform distribution must be one of {', '.join(UNIFORM)}, got {name!r}")
    fan_in, fan_out = fans(slot)
    if name == "default" and activation != SELU:
        return 1.0 / math.sqrt(fan_in)
    if name == "lecun" or activation == SELU:
        return math.sqrt(3.0 / fan_in)
    return _gain(activation, group, name) * math.sqrt(6.0 / (fan_in + fan_out) if name == "xavier" else 3.0 / fan_in)


def _gain(activation: Activation | None, group: str, init: str) -> float:
    scale = activation_gain(activation) if activation else None
    if scale is None:
        seen = f"activation {activation[0]!r} has no known gain" if activation else "no activation is seen in the list"
        raise ValueError(
            f"init {init!r} needs the gain of the activation of group {group!r}, but {seen}: pass activation=NAME, one "
            f"of {', '.join(activation_names())}, or init='auto', 'default' or 'lecun', which need none"
        )
    return scale


def fans(slot: Slot) -> tuple[int, int]:
    """(fan_in, fan_out) of a producer: number of inputs of a unit, and number of units that read one input."""
    weight = slot.weight
    kernel = math.prod(weight.shape[2:])
    return weight.shape[1 - slot.dim] * kernel, weight.shape[slot.dim] // input_groups(slot.module) * kernel
