"""Layers that a forward ran and whose output the loss did not use, such as the heads of other tasks.

A layer that got no gradient was either not used, or its output was detached. Gradients tell which: in the first case
they reached the layers before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn


def is_unused(before: Iterable[nn.Module], has_gradient: Callable[[nn.Module], bool]) -> bool:
    """True if the output of a layer without gradient was not used, as far as the layers before it tell.

    Args:
        before: the layers before it. Without any it counts as used.
        has_gradient: whether a gradient arrived at one of them. If all are frozen none can, and the layer is unused.
    """
    known = list(before)
    trainable = [module for module in known if any(each.requires_grad for each in module.parameters(recurse=False))]
    return bool(known) and (not trainable or any(map(has_gradient, trainable)))


def has_gradient(module: nn.Module) -> bool:
    """True if a parameter of this module itself has a gradient at present."""
    return any(each.grad is not None for each in module.parameters(recurse=False))
