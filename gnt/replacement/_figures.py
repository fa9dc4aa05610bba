"""Figures of the units by the names of their groups, as numbers to be logged."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

import torch

from gnt.units import UnitGroup


def figures(groups: Sequence[UnitGroup]) -> dict[str, float]:
    """Means and counts of each group; reads the device once."""
    states = [group.state for group in groups]
    read = [
        torch.stack([state.corrected_utility.double().mean(), state.age.double().mean(), state.dead.sum().double()])
        for state in states
    ]
    result: dict[str, float] = {}
    rows = torch.stack(read).tolist() if read else []
    for group_name, state, row in zip(unique_names(groups), states, rows, strict=True):
        utility, age, dead = row
        counts = {
            "dead": dead,
            "eligible": state.eligible,
            "protected": state.num_protected,
            "replaced": state.replaced,
        }
        own = {"utility": utility, "age": age, **counts}
        result.update({f"{group_name}/{name}": float(value) for name, value in own.items()})
    return result


def unique_names(groups: Sequence[UnitGroup]) -> list[str]:
    """The names of groups; further groups of the same name, of another network, are numbered: "0", "0#2"."""
    counts: Counter[str] = Counter()
    names = []
    for group in groups:
        counts[group.name] += 1
        names.append(group.name if counts[group.name] == 1 else f"{group.name}#{counts[group.name]}")
    return names


def find_group(groups: Sequence[UnitGroup], name: str) -> UnitGroup:
    """The group of this name.

    Raises:
        KeyError: there is none.
    """
    for group in groups:
        if group.name == name:
            return group
    names = [group.name for group in groups]
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise KeyError(f"no group is named {name!r}; groups are {', '.join(map(repr, names))}{hint}")
