"""Initial distributions of parameters in torch, by the type of their layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from gnt._utils.initial_values import NORM_INITIAL_VALUES, PRELU_INITIAL_VALUES
from gnt.initialization._distribution import SMALL_STD, Distribution
from gnt.units import is_transposed_linear

SUPPORTED_LAYERS = "Linear, Conv and ConvTranspose (1d to 3d), the norms, PReLU, Embedding, and transformers' Conv1D"


def init_distribution(module: nn.Module, name: str) -> Distribution | None:
    """Return the distribution from which torch initializes the parameter ``name`` of ``module``; None if unknown.

    Linear and convolution layers, weight and bias: uniform, bound 1 / sqrt(fan_in). Norms: weight 1, bias 0. PReLU:
    0.25. Embedding: normal, 0 in the row of its padding_idx. transformers' Conv1D: normal weight, bias 0. Further
    types: `register_init_distribution`.
    """
    if is_transposed_linear(module):
        return {"weight": Distribution("normal", SMALL_STD), "bias": Distribution("constant", 0.0)}.get(name)
    for layer_type in type(module).__mro__:
        if layer_type in _DISTRIBUTIONS:
            distribution = _DISTRIBUTIONS[layer_type](module, name)
            if distribution is not None:
                return distribution
    return None


def register_init_distribution(layer_type: type[nn.Module], *, like: type[nn.Module]) -> None:
    """Declare that layers of ``layer_type`` are initialized like those of ``like``, a type that is already known.

    Parameters must have the same names, and a weight its inputs along dimension 1, as in torch's layers.

    A type that is registered takes precedence over the known types that it is derived from.

    Raises:
        TypeError: ``layer_type`` is not a class of modules.
        ValueError: ``like`` is not a known type.

    >>> import torch, gnt
    >>> class Scaled(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = torch.nn.Parameter(torch.ones(4))
    >>> gnt.regularization.register_init_distribution(Scaled, like=torch.nn.LayerNorm)
    >>> perturb = gnt.ShrinkAndPerturb(Scaled(), shrink=0.9, noise=0.1)
    """
    if not isinstance(layer_type, type) or not issubclass(layer_type, nn.Module):
        raise TypeError(f"layer_type must be a class of modules, such as nn.Linear, got {layer_type!r}")
    known = next((each for each in getattr(like, "__mro__", ()) if each in _DISTRIBUTIONS), None)
    if known is None:
        registered = [each.__name__ for each in _DISTRIBUTIONS if not each.__module__.startswith("torch.")]
        others = f", or one that was registered ({', '.join(registered)})" if registered else ""
        raise ValueError(f"like must be a class of a layer that is known: {SUPPORTED_LAYERS}{others}, got {like!r}")
    _DISTRIBUTIONS[layer_type] = _DISTRIBUTIONS[known]


def _uniform_by_fan_in(module: Any, name: str) -> Distribution | None:
    if name not in ("weight", "bias"):
        return None
    # torch computes the fan-in of transposed convolutions from dimension 1, too
    fan_in = module.weight.shape[1] * math.prod(module.weight.shape[2:])
    return Distribution("uniform", 1.0 / math.sqrt(fan_in) if fan_in else 0.0)


def _norm_constant(module: Any, name: str) -> Distribution | None:
    return Distribution("constant", NORM_INITIAL_VALUES[name]) if name in NORM_INITIAL_VALUES else None


def _prelu_constant(module: Any, name: str) -> Distribution | None:
    return Distribution("constant", PRELU_INITIAL_VALUES[name]) if name in PRELU_INITIAL_VALUES else None


def _normal_embedding(module: Any, name: str) -> Distribution | None:
    return Distribution("normal", 1.0, module.padding_idx) if name == "weight" else None


_DISTRIBUTIONS: dict[type[nn.Module], Callable[[Any, str], Distribution | None]] = {
    nn.Linear: _uniform_by_fan_in,
    _ConvNd: _uniform_by_fan_in,
    _NormBase: _norm_constant,
    nn.LayerNorm: _norm_constant,
    nn.GroupNorm: _norm_constant,
    nn.RMSNorm: _norm_constant,
    nn.PReLU: _prelu_constant,
    nn.Embedding: _normal_embedding,
}
