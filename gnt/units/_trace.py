"""`trace`: unit groups from any model and example inputs."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from torch import nn

from gnt._utils.autocast import no_autocast_cache
from gnt.names import ActivationName, TraceModes
from gnt.units._activations import activation_gain, parse_activation
from gnt.units._containers import ModelContainers
from gnt.units._errors import TraceError
from gnt.units._group import UnitGroup
from gnt.units._trace_result import Groups, Refused
from gnt.units._tracing.errors import check_inputs
from gnt.units._tracing.examples import given_examples
from gnt.units._tracing.find import MODES, find_units
from gnt.units._unwrap import unwrap


def trace(
    model: nn.Module,
    *args: Any,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    activation: ActivationName | None = None,
    examples: Sequence[Any] | None = None,
    modes: TraceModes = "both",
    frozen: bool = False,
    **kwargs: Any,
) -> Groups:
    """Find all groups of hidden units in a model that can be replaced soundly.

    Args:
        model: any module whose forward runs on fake tensors, or that torch.export can trace. Wrappers (torch.compile,
            DistributedDataParallel, Fabric) are opened.
        args, kwargs: example inputs, as for ``model(*args, **kwargs)``. The forward must run with them in training and
            in evaluation mode: batch norm may need a batch of two, and auxiliary heads images of full size.
        include: keep only groups whose name matches this pattern, or one of several. The name of a group is the path of
            its producer; a pattern is one of `fnmatch`, or a path that includes everything below it.
        exclude: drop groups whose name matches this pattern, or one of several.
        activation: name of the activation for groups whose activation is not recognised.
        examples: the inputs of several forwards, in place of ``args`` and ``kwargs``: a list of tensors, tuples of
            positional arguments, or dicts of keyword arguments. For a model whose forwards take different paths, such
            as one head for each task: ``examples=[(x, 0), (x, 1)]``. Units have the consumers of all examples, and are
            refused if any example makes them unsound.
        modes: "both" traces each example in training and in evaluation mode. "train" and "eval" trace one mode only,
            for models that cannot be traced in the other; layers that read units only there are not seen.
        frozen: also find units of layers with frozen weights (requires_grad=False), which can be measured
            (`gnt.metrics.Probe`, `gnt.importance.Importance`) and not replaced.

    Returns:
        `Groups`: a tuple of `UnitGroup` for `GnT` in the order of computation. Its ``refused`` lists the units that
        cannot be replaced, each with the reason. The model is left unchanged.

    Raises:
        TraceError (a ValueError): the model cannot be traced, in one of the modes or with one of the examples; the
            inputs do not fit; lazy parameters; a module made by torch.jit; there is no group, or none is selected.
        ValueError: a pattern that matches nothing; an ``activation`` that is unknown or that no group needs; an empty
            ``include`` or ``examples``; ``modes`` with another value.
        TypeError: ``model`` is not a module; ``include``, ``exclude`` or ``examples`` of another type; inputs in
            addition to ``examples``.

    >>> import torch
    >>> from torch import nn
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(32, 16)
    ...         self.actor, self.critic = nn.Linear(16, 4), nn.Linear(16, 1)
    ...     def forward(self, x):
    ...         h = torch.relu(self.fc(torch.max_pool2d(torch.relu(self.conv(x)), 3).flatten(1)))
    ...         return self.actor(h), self.critic(h)
    >>> print(trace(Net(), torch.randn(1, 3, 8, 8)))
    conv: 8 units, relu
      producer  conv Conv2d (rows)
      consumer  fc Linear (columns, 4 per unit)
    fc: 16 units, relu
      producer  fc Linear (rows)
      consumer  actor Linear (columns)
      consumer  critic Linear (columns)
    skipped:
      actor   4 units  output units: they are the model's output
      critic   1 units  output units: they are the model's output
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    given = parse_activation(activation) if activation is not None else None
    patterns = {name: checked_patterns(name, given) for name, given in (("include", include), ("exclude", exclude))}
    if not isinstance(modes, str) or modes not in MODES:
        raise ValueError(f"modes must be one of {', '.join(map(repr, MODES))}, got {modes!r}")
    inputs = given_examples(args, kwargs, examples)
    model = unwrap(model)
    for number, example in enumerate(inputs, 1):
        check_inputs(model, example, f"example {number}: " if len(inputs) > 1 else "")
    with no_autocast_cache():
        groups, refused, notes = find_units(model, inputs, modes, frozen=frozen)
    groups = _select(groups, refused, **patterns)
    if given is not None:
        unknown = [group for group in groups if group.activation is None or activation_gain(group.activation) is None]
        if not unknown:
            raise ValueError(f"activation={activation!r} would be ignored: the activation of every group is recognised")
        for group in unknown:
            group.activation = given
    around = ModelContainers(model)
    for group in groups:
        group.containers = around.around(slot.module for slot in group.slots)
    return Groups.of(groups, refused, notes)


def checked_patterns(name: str, given: str | Sequence[str] | None) -> list[str] | None:
    """Check the argument ``include`` or ``exclude`` of `trace` and return it as a list.

    Raises:
        TypeError: neither None, a pattern nor a list of patterns.
        ValueError: an empty list as ``include``.
    """
    if given is None:
        return None
    patterns = [given] if isinstance(given, str) else given
    if not isinstance(patterns, (list, tuple, set, frozenset)) or not all(isinstance(item, str) for item in patterns):
        raise TypeError(
            f"{name} must be a pattern or a list of patterns, got {given!r}; a model input of this name must be passed "
            "by position"
        )
    if name == "include" and not patterns:
        raise ValueError(f"include must be a pattern or a list of at least one, got {given!r}; None keeps all groups")
    return list(patterns)


def _matches(name: str, pattern: str) -> bool:
    path = name.partition("[")[0]  # without the range of rows
    return any(fnmatch.fnmatchcase(text, pattern) for text in (name, path)) or path.startswith(f"{pattern}.")


def _select(
    groups: list[UnitGroup], refused: list[Refused], include: list[str] | None, exclude: list[str] | None
) -> list[UnitGroup]:
    """The groups that match ``include`` and not ``exclude``."""
    names = [group.name for group in groups]
    known = [*names, *(item.name for item in refused)]
    for key, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns or ():
            if not any(_matches(name, pattern) for name in known):
                raise ValueError(f"{key} pattern {pattern!r} matches nothing; groups are {', '.join(names) or 'none'}")
    kept = groups if include is None else [g for g in groups if any(_matches(g.name, p) for p in include)]
    kept = [g for g in kept if not any(_matches(g.name, p) for p in exclude or ())]
    if not kept:
        reasons = [f"\n  {item}" for item in refused if any(_matches(item.name, p) for p in include or ())]
        raise TraceError(
            f"no group is left with include={_as_given(include)}, exclude={_as_given(exclude)}; groups are "
            + ", ".join(names)
            + ("; skipped are:" + "".join(reasons) if reasons else "")
        )
    return kept


def _as_given(patterns: list[str] | None) -> str:
    """A single pattern is printed as a string, several as a list."""
    return repr(patterns[0] if patterns is not None and len(patterns) == 1 else patterns)
