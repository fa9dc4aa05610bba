"""The weight matrices of a network's layers, for penalties and transformations that act on singular values."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from gnt._utils.parameters import ModuleOrParameters, check_parameter, select_parameters
from gnt.distributed.dtensor import is_dtensor
from gnt.initialization import init_distribution
from gnt.units import is_transposed_linear


def layers_with_matrices(net: nn.Module, method: str) -> list[tuple[str, nn.Module, Tensor]]:
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


def select_matrices(given: ModuleOrParameters, method: str) -> tuple[list[str], list[Tensor], int]:
    """Names and weights of a module's linear and convolution layers, or given ones, and the number of members.

    Raises:
        TypeError: neither a module nor a list of tensors, or weights that are sharded over processes.
        ValueError: no weights; a list with parameters that are no matrices, frozen, lazy or repeated.
    """
    if isinstance(given, nn.Module):
        layers = layers_with_matrices(given, method)
        if not layers:
            raise ValueError(f"{method} found no linear or convolution layer to be trained in {type(given).__name__}")
        names, weights = [name for name, *_ in layers], [weight for *_, weight in layers]
    else:
        names, weights = select_parameters(given if isinstance(given, (Tensor, Iterable)) else [given], method)
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
    return names, weights, members if isinstance(members, int) else 1


def as_matrices(weight: Tensor, members: int) -> Tensor:
    """A weight as (members, outputs, inputs), with the kernel's positions among the inputs."""
    return weight.reshape(members, len(weight) // members, -1)
