"""The initial distributions of all parameters of a module."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnt.initialization._distribution import Distribution
from gnt.initialization._fit import Sample, fit
from gnt.initialization._known import known_distributions
from gnt.initialization._layer_defaults import SUPPORTED_LAYERS, init_distribution
from gnt.units import Slot


def parameter_distributions(
    net: nn.Module, names: Sequence[str], parameters: Sequence[Tensor], otherwise: str
) -> list[Distribution]:
    """The distribution from which torch initializes each parameter of a module.

    Args:
        net: the module.
        names, parameters: the parameters.
        otherwise: what to do for unknown layers, for the error message.

    Raises:
        ValueError: the initial distribution of a parameter is not known.
    """
    owners = _owners(net)
    found = [init_distribution(*owners[id(parameter)]) for parameter in parameters]
    pairs = zip(names, parameters, found, strict=True)
    unknown = [f"{name} ({type(owners[id(p)][0]).__name__})" for name, p, known in pairs if known is None]
    if unknown:
        raise ValueError(
            f"the initial distribution of {', '.join(unknown)} is not known; known are those of {SUPPORTED_LAYERS}: "
            f"{otherwise}, or pass a module without these layers"
        )
    return [each for each in found if each is not None]


@torch.no_grad()
def fitting_distributions(
    net: nn.Module, names: Sequence[str], parameters: Sequence[Tensor], otherwise: str, members: int = 1
) -> list[tuple[Distribution, ...]]:
    """For each parameter and member the known distribution that its present values look like a draw from.

    Where none fits, and for parameters that are no weight matrices, it is that of torch. The biases of layers are 0.

    Args:
        net, names, parameters, otherwise: as for `parameter_distributions`.
        members: number of networks whose parameters the module holds one after the other.
    """
    own = parameter_distributions(net, names, parameters, otherwise)
    owners = _owners(net)
    return [
        _fitting(*owners[id(parameter)], parameter, distribution, members)
        for parameter, distribution in zip(parameters, own, strict=True)
    ]


def _owners(net: nn.Module) -> dict[int, tuple[nn.Module, str]]:
    """The module and the name of each parameter, by the parameter's id."""
    owners: dict[int, tuple[nn.Module, str]] = {}
    for module in net.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), (module, name))
    return owners


def _fitting(
    module: nn.Module, name: str, parameter: Tensor, own: Distribution, members: int
) -> tuple[Distribution, ...]:
    if name == "bias" and own.kind != "constant":
        return (Distribution("constant", 0.0),) * members
    if own.kind == "constant" or own.zero_row is not None or parameter.ndim < 2 or not math.prod(parameter.shape):
        return (own,) * members
    known = known_distributions(Slot(name, module, parameter.shape[0]), None, members)
    disadvantages = {distribution: each.disadvantage for distribution, each in known.items()}
    return tuple(
        fit(Sample.read(part.flatten(1)), own, disadvantages) or own for part in parameter.detach().chunk(members)
    )
