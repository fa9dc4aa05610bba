"""`Example`: the inputs of one forward of a model, and how users write several of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_leaves, tree_map


class Example(NamedTuple):
    """Positional and keyword arguments of one forward."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def given_examples(args: tuple[Any, ...], kwargs: Mapping[str, Any], examples: Any) -> list[Example]:
    """The examples of a call of `trace`: its own arguments as one, or the list ``examples``.

    Raises:
        TypeError: ``examples`` or one of its items has another type, or inputs are given in both ways.
        ValueError: an empty list.
    """
    if examples is None:
        return [Example(tuple(args), dict(kwargs))]
    if args or kwargs:
        raise TypeError(
            "examples was given in addition to the inputs of one forward: put all of them into examples=[...]; a model "
            "input of this name must be passed by position"
        )
    if not isinstance(examples, (list, tuple)):
        raise TypeError(
            "examples must be a list with the inputs of one forward in each item, such as [(x, 0), (x, 1)], got "
            f"{type(examples).__name__}; a model input of this name must be passed by position"
        )
    if not examples:
        raise ValueError(f"examples must be a list of at least one example, got {examples!r}")
    return [_example(item, number) for number, item in enumerate(examples, 1)]


def _example(item: Any, number: int) -> Example:
    if isinstance(item, Tensor):
        return Example((item,), {})
    if isinstance(item, Mapping):
        return Example((), {str(name): value for name, value in item.items()})
    if isinstance(item, (tuple, list)):
        return Example(tuple(item), {})
    raise TypeError(
        f"example {number} must be a tensor, a tuple or list of positional arguments, or a dict of keyword arguments, "
        f"got {type(item).__name__}"
    )


def enlarge(example: Example, batch: int, space: int) -> tuple[Example, str]:
    """An example whose batch, and whose images, are repeated this many times; and the shapes of its changed tensors.

    The batch is the first dimension of the first tensor; images are tensors with four dimensions or more.
    """
    leading = next((len(leaf) for leaf in tree_leaves(tuple(example)) if isinstance(leaf, Tensor) and leaf.ndim), 0)
    shapes: list[str] = []

    def repeat(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.ndim or value.numel() * batch * space**3 > 10**8:
            return value
        times = [batch if len(value) == leading else 1, *[1] * (value.ndim - 1)]
        if value.ndim > 3:
            times[2:] = [space] * (value.ndim - 2)
        if max(times) == 1:
            return value
        repeated = value.repeat(times)
        shapes.append(f"{tuple(repeated.shape)} in place of {tuple(value.shape)}")
        return repeated

    args, kwargs = tree_map(repeat, tuple(example))
    return Example(args, kwargs), " and ".join(shapes)


def leaf_names(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[int, str]:
    """The name of each tensor among the inputs of a forward, by its id: its argument, with the path inside it."""
    given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    names: dict[int, str] = {}
    for path, leaf in tree_flatten_with_path(dict(given))[0]:
        if isinstance(leaf, Tensor):
            keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path]
            names.setdefault(id(leaf), re.sub(r"[^a-zA-Z0-9]", "_", "_".join(keys)).lower())
    return names
