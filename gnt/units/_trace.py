"""Any model and example inputs -> unit groups."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from gnt.units._activations import activation_gain, parse_activation
from gnt.units._group import UnitGroup
from gnt.units._tracing.capture import capture
from gnt.units._tracing.errors import BY_HAND, TraceError, check_call, explain, told
from gnt.units._tracing.grouping import gather
from gnt.units._tracing.isolation import preserve_model
from gnt.units._tracing.ownership import Owners, unused
from gnt.units._tracing.propagation import walk_graph
from gnt.units._tracing.refused import Refused
from gnt.units._tracing.train_eval import agreed
from gnt.units._unwrap import unwrap


class Groups(tuple[UnitGroup, ...]):
    """The groups that `trace` found; prints what was refused, too.

    Attributes:
        refused: what was found and cannot be replaced soundly, with the reasons.
        notes: what trace could not look at.
    """

    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()

    def __new__(cls, groups: Iterable[UnitGroup] = ()) -> Groups:
        """Unit groups with nothing refused.

        Raises:
            TypeError: anything but unit groups.
        """
        made = super().__new__(cls, groups)
        others = [type(each).__name__ for each in made if not isinstance(each, UnitGroup)]
        if others:
            raise TypeError(f"Groups must be of gnt.UnitGroup, got {', '.join(dict.fromkeys(others))}")
        return made

    @classmethod
    def of(cls, groups: Iterable[UnitGroup], refused: Iterable[Refused], notes: Iterable[str] = ()) -> Groups:
        """Groups with what goes with them."""
        made = cls(groups)
        made.refused, made.notes = tuple(refused), tuple(notes)
        return made

    def __str__(self) -> str:
        lines = [str(group) for group in self]
        if self.refused:
            names = max(len(one.path) for one in self.refused)
            counts = max(len(_count(one)) for one in self.refused)
            lines.append("refused:")
            lines += [f"  {one.path:<{names}}  {_count(one):>{counts}}  {one.reason}" for one in self.refused]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def __repr__(self) -> str:
        units = sum(group.num_units for group in self)
        return f"Groups({len(self)} groups, {units} units, {len(self.refused)} refused)"

    def __getitem__(self, key: Any) -> Any:
        """A group; of a slice the groups, with what was refused beside them."""
        chosen = super().__getitem__(key)
        return Groups.of(chosen, self.refused, self.notes) if isinstance(key, slice) else chosen

    def __reduce__(self) -> tuple[Any, ...]:
        return Groups.of, (tuple(self), self.refused, self.notes)


def _count(one: Refused) -> str:
    return f"{one.num_units} units" if one.num_units is not None else ""


def trace(
    model: nn.Module,
    *args: Any,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    activation: str | None = None,
    **kwargs: Any,
) -> Groups:
    """Find, in any model, every set of hidden units that can be replaced soundly.

    Args:
        model: any module that torch.export can trace. Wrappers (torch.compile, DistributedDataParallel) are opened.
        args, kwargs: example inputs, as for ``model(*args, **kwargs)``. Small ones do.
        include: take only groups whose name matches this pattern, or one of these. Names are the paths of the
            producers; a pattern is that of `fnmatch`, or a path that covers everything under it.
        exclude: leave out groups whose name matches.
        activation: name of the activation for groups where trace does not recognise it.

    Returns:
        `Groups`: a tuple of `UnitGroup` for `GnT`, in the order of computation, and ``refused``: what was found and
        cannot be replaced, each with its reason. The model is as it was.

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
    chosen = {"include": _patterns("include", include), "exclude": _patterns("exclude", exclude)}
    model = unwrap(model)
    check_call(model, args, kwargs)
    owners = Owners(model)
    found: dict[bool, tuple[list[UnitGroup], list[Refused]]] = {}
    errors: dict[bool, Exception] = {}
    with preserve_model(model):
        for training in (True, False):
            try:
                graph = capture(model, args, kwargs, training=training)
            except Exception as error:
                errors[training] = error
            else:
                found[training] = gather(walk_graph(graph, owners))
    if not found:
        raise explain(model, args, kwargs, errors[False]) from errors[False]
    groups, refused = agreed(found)
    refused += unused(model, {one.name for one in refused} | {s.name for g in groups for s in (*g.incoming, *g.scales)})
    notes = [
        f"{'training' if training else 'evaluation'} mode could not be traced ({told(error)}); what runs in that "
        "mode alone was not seen"
        for training, error in errors.items()
    ]
    if not groups:
        raise TraceError(
            "no group of units can be replaced in this model"
            + (":\n" + "\n".join(f"  {one}" for one in refused) if refused else ": no Linear or Conv layer is used")
            + f"\n{BY_HAND}"
        )
    groups = _select(groups, refused, **chosen)
    if given is not None:
        needing = [group for group in groups if group.activation is None or activation_gain(group.activation) is None]
        if not needing:
            raise ValueError(f"activation={activation!r} would be ignored: trace recognises that of every group")
        for group in needing:
            group.activation = given
    return Groups.of(groups, refused, notes)


def _patterns(name: str, given: str | Sequence[str] | None) -> list[str] | None:
    if given is None:
        return None
    patterns = [given] if isinstance(given, str) else given
    if not isinstance(patterns, (list, tuple, set, frozenset)) or not all(isinstance(one, str) for one in patterns):
        raise TypeError(
            f"{name} must be a pattern or a list of patterns, got {given!r}; an input of the model that has this name "
            "is given by position"
        )
    if name == "include" and not patterns:
        raise ValueError(f"include must be a pattern or a list of at least one, got {given!r}; None takes all groups")
    return list(patterns)


def _matches(name: str, pattern: str) -> bool:
    bare = name.partition("[")[0]
    return any(fnmatch.fnmatchcase(one, pattern) for one in (name, bare)) or bare.startswith(f"{pattern}.")


def _select(
    groups: list[UnitGroup], refused: list[Refused], include: list[str] | None, exclude: list[str] | None
) -> list[UnitGroup]:
    names = [group.name for group in groups]
    known = [*names, *(one.name for one in refused)]
    for key, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns or ():
            if not any(_matches(name, pattern) for name in known):
                raise ValueError(f"{key} pattern {pattern!r} matches nothing; groups are {', '.join(names) or 'none'}")
    kept = groups if include is None else [g for g in groups if any(_matches(g.name, p) for p in include)]
    kept = [g for g in kept if not any(_matches(g.name, p) for p in exclude or ())]
    if not kept:
        reasons = [f"\n  {one}" for one in refused if any(_matches(one.name, p) for p in include or ())]
        raise TraceError(
            f"no group is left with include={_shown(include)}, exclude={_shown(exclude)}; groups are {', '.join(names)}"
            + ("; refused are:" + "".join(reasons) if reasons else "")
        )
    return kept


def _shown(patterns: list[str] | None) -> str:
    return repr(patterns[0] if patterns is not None and len(patterns) == 1 else patterns)
