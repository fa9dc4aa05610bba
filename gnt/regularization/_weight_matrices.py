"""The weight matrices of a network's layers, for penalties and transformations that act on singular values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from gnt._utils.parameters import ModuleOrParameters, check_parameter, select_parameters
from gnt.distributed.dtensor import is_dtensor
from gnt.initialization import init_distribution
from gnt.units import is_transposed_linear


def _layers_with_matrices(net: nn.Module, method: str) -> list[tuple[str, nn.Module, Tensor]]:
    """The linear and convolution layers of a module that are trained: name of the weight, layer, weight.

    Layers of other types count if their weight is initialized like that of a linear layer.

    Raises:
        ValueError: a layer that has no weights yet.
    """
    found: dict[int, tuple[str, nn.Module, Tensor]] = {}
    for name, module in net.named_modules():
        weight = module._parameters.get("weight")
        if isinstance(weight, UninitializedParameter):
            check_parameter(f"{name}.weight", weight, method)
        if weight is None or not weight.requires_grad or weight.ndim < 2 or not weight.numel():
            continue
        distribution = init_distribution(module, "weight")
        if distribution is not None and (distribution.kind == "uniform" or is_transposed_linear(module)):
            found.setdefault(id(weight), (f"{name}.weight" if name else "weight", module, weight))
    return list(found.values())


class Matrices(NamedTuple):
    """The weights that a method acts on.

    Attributes:
        names, weights: the weights.
        layers: the layer of each; None for weights that were given without one.
        members: number of networks whose weights each parameter holds one after the other.
    """

    names: list[str]
    weights: list[Tensor]
    layers: list[nn.Module | None]
    members: int


def select_matrices(given: ModuleOrParameters, method: str) -> Matrices:
    """The weights of a module's linear and convolution layers, or given ones.

    Raises:
        TypeError: neither a module nor a list of tensors, or weights that are sharded over processes.
        ValueError: no weights; a list with parameters that are no matrices, frozen, lazy or repeated.
    """
    if isinstance(given, nn.Module):
        found = _layers_with_matrices(given, method)
        if not found:
            raise ValueError(f"{method} found no linear or convolution layer to be trained in {type(given).__name__}")
        names, weights = [name for name, *_ in found], [weight for *_, weight in found]
        layers: list[nn.Module | None] = [layer for _, layer, _ in found]
    else:
        names, weights = select_parameters(given if isinstance(given, (Tensor, Iterable)) else [given], method)
        layers = [None] * len(weights)
    flat = [name for name, weight in zip(names, weights, strict=True) if weight.ndim < 2]
    if flat:
        raise ValueError(
            f"{method} takes a network, or a list of weights with two dimensions or more; "
            f"fewer has item {', '.join(flat)}"
        )
    empty = [name for name, weight in zip(names, weights, strict=True) if not weight.numel()]
    if empty:
        raise ValueError(f"{method} takes weights with at least one element, and {', '.join(empty)} has none")
    if any(map(is_dtensor, weights)):
        raise TypeError(f"{method} cannot act on weights that are sharded over processes")
    members = getattr(given, "members", 1)
    return Matrices(names, weights, layers, members if isinstance(members, int) else 1)


def parts_of(layer: nn.Module | None, members: int) -> int:
    """The number of matrices that a weight holds one after the other: groups of a convolution, of all members."""
    return int(getattr(layer, "groups", members))


def has_inputs_first(layer: nn.Module | None) -> bool:
    """Whether the weight is (inputs, outputs / groups, ...), as in transposed convolutions."""
    return layer is not None and (bool(getattr(layer, "transposed", False)) or is_transposed_linear(layer))


def transposed_groups(layer: nn.Module | None, members: int) -> int:
    """`parts_of` a layer whose weight has its inputs first; 0 for others."""
    return parts_of(layer, members) if has_inputs_first(layer) else 0


def as_matrices(weight: Tensor, members: int, transposed: int = 0) -> Tensor:
    """A weight as (members, outputs, inputs / groups), with the kernel's positions among the inputs.

    Args:
        weight: (outputs, inputs / groups, ...), or as ``transposed`` says.
        members: number of networks whose weights it holds one after the other.
        transposed: the `transposed_groups` of its layer.
    """
    if transposed:
        weight = weight.reshape(transposed, len(weight) // transposed, weight.shape[1], -1).transpose(1, 2)
        return weight.reshape(members, -1, weight.shape[2] * weight.shape[3])
    return weight.reshape(members, len(weight) // members, -1)
