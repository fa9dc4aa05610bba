"""Kinds of tensors in saved states, for `benchmarks.saved_values`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .saved_values import Kind, WrongValue, mapping, shown


def tensor(
    dtype: torch.dtype,
    *shape: int | None,
    least: float | None = None,
    most: float | None = None,
    finite: bool = True,
) -> Kind:
    """A tensor of this dtype and shape, whose values are finite and from ``least`` to ``most``.

    Args:
        dtype: the dtype.
        shape: the sizes of its dimensions; None: any size.
        least, most: bounds of the values; None: no bound.
        finite: whether values must be finite. False: for what a diverging network may have.
    """
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    wanted = f"a tensor of {dtype} and shape ({sizes})"

    def check(name: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise WrongValue(name, value, wanted)
        sizes_fit = len(shape) == value.ndim and all(shape[i] in (None, size) for i, size in enumerate(value.shape))
        if value.dtype != dtype or not sizes_fit or value.layout is not torch.strided:
            raise ValueError(f"{name} must be {wanted}, got one of {value.dtype} and shape {tuple(value.shape)}")
        if finite and value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} must have finite values")
        if value.numel() and not (least is None and most is None):
            low, high = (bound.item() for bound in value.aminmax())
            if (least is not None and low < least) or (most is not None and high > most):
                bounds = f">= {least}" if most is None else f"from {least} to {most}"
                raise ValueError(f"{name} must have values {bounds}, got {low} to {high}")

    return check


def like(template: Tensor, least: float | None = None, most: float | None = None, *, finite: bool = True) -> Kind:
    """A tensor of the dtype and shape of another one."""
    return tensor(template.dtype, *template.shape, least=least, most=most, finite=finite)


def random_state(name: str, value: Any) -> None:
    """The state of a random number generator of torch."""
    tensor(torch.uint8, None)(name, value)
    try:
        torch.Generator().set_state(value)
    except RuntimeError as error:
        raise ValueError(f"{name} must be the state of a generator: {shown(str(error))}") from None


def weights(net: nn.Module) -> Kind:
    """The state_dict of a network like this one, or an empty dict."""
    state = net.state_dict()

    def check(name: str, value: Any) -> None:
        mapping(lambda *_: None)(name, value)
        if value and value.keys() != state.keys():
            raise WrongValue(name, sorted(value), f"a dict with {shown(sorted(state))}")
        for key, each in value.items():
            like(state[key], finite=False)(f"{name}.{key}", each)

    return check
