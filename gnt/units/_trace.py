"""`trace`: unit groups from any model and example inputs."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gnt.units._activations import activation_gain, parse_activation
from gnt.units._containers import ModelContainers
from gnt.units._errors import TraceError
from gnt.units._group import UnitGroup
from gnt.units._trace_result import Groups, Refused
from gnt.units._tracing.capture import capture
from gnt.units._tracing.errors import MANUAL_GROUPS_HINT, check_inputs, export_error, short_message
from gnt.units._tracing.grouping import find_groups
from gnt.units._tracing.isolation import preserve_model
from gnt.units._tracing.ownership import ParameterOwners, unused_layers
from gnt.units._tracing.propagation import propagate
from gnt.units._tracing.train_eval import merge_modes
from gnt.units._unwrap import unwrap


def trace(
    model: nn.Module,
    *args: Any,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    activation: str | None = None,
    **kwargs: Any,
) -> Groups:
    """Find all groups of hidden units in a model that can be replaced soundly.

    Args:
        model: any module that torch.export can trace. Wrappers (torch.compile, DistributedDataParallel) are opened.
        args, kwargs: example inputs, as for ``model(*args, **kwargs)``. Small ones are sufficient.
        include: keep only groups whose name matches this pattern, or one of several. The name of a group is the path of
            its producer; a pattern is one of `fnmatch`, or a path that includes everything below it.
        exclude: drop groups whose name matches this pattern, or one of several.
        activation: name of the activation for groups whose activation is not recognised.

    Returns:
        `Groups`: a tuple of `UnitGroup` for `GnT` in the order of computation. Its ``refused`` lists the units that
        cannot be replaced, each with the reason. The model is left unchanged.

    Raises:
        TraceError (a ValueError): the model cannot be traced, the inputs do not fit, or there is no group.
        ValueError: a pattern that matches nothing; an ``activation`` that no group needs.

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
    refused:
      actor   4 units  output units: they are the model's output
      critic   1 units  output units: they are the model's output
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    given = parse_activation(activation) if activation is not None else None
    patterns = {"include": _patterns("include", include), "exclude": _patterns("exclude", exclude)}
    model = unwrap(model)
    check_inputs(model, args, kwargs)
    groups, refused, notes = _find(model, args, kwargs)
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


def _find(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[UnitGroup], list[Refused], list[str]]:
    """All groups on which training and evaluation mode agree, the refused units, and notes; TraceError if no group."""
    owners = ParameterOwners(model)
    found: dict[bool, tuple[list[UnitGroup], list[Refused]]] = {}
    errors: dict[bool, Exception] = {}
    with preserve_model(model):
        for training in (True, False):
            try:
                graph = capture(model, args, kwargs, training=training)
            except Exception as error:
                errors[training] = error
            else:
                found[training] = find_groups(propagate(graph, owners))
    if not found:
        raise export_error(model, args, kwargs, errors[False]) from errors[False]
    groups, refused = merge_modes(found)
    slots = [slot for group in groups for slot in (*group.incoming, *group.scales)]
    refused += unused_layers(model, {item.name for item in refused} | {slot.name for slot in slots})
    if not groups:
        raise TraceError(
            "no group of units can be replaced in this model"
            + (":\n" + "\n".join(f"  {item}" for item in refused) if refused else ": no Linear or Conv layer is used")
            + f"\n{MANUAL_GROUPS_HINT}"
        )
    notes = [
        f"{'training' if training else 'evaluation'} mode could not be traced ({short_message(error)}); layers that "
        "run only in that mode were not seen"
        for training, error in errors.items()
    ]
    return groups, refused, notes


def _patterns(name: str, given: str | Sequence[str] | None) -> list[str] | None:
    """Check the argument ``include`` or ``exclude`` and return it as a list."""
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
            + ("; refused are:" + "".join(reasons) if reasons else "")
        )
    return kept


def _as_given(patterns: list[str] | None) -> str:
    """A single pattern is printed as a string, several as a list."""
    return repr(patterns[0] if patterns is not None and len(patterns) == 1 else patterns)
