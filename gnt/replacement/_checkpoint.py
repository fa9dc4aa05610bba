"""The saved state of an engine: created, checked, and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnt.units import UnitGroup

STATE_VERSION = 1


def engine_state(
    groups: Sequence[UnitGroup],
    utility: str,
    updates: int,
    counted: int,
    generator: torch.Generator,
    host_generator: torch.Generator,
) -> dict[str, Any]:
    """The state of an engine, in tensors and plain values."""
    return {
        "version": STATE_VERSION,
        "utility": utility,
        "updates": updates,
        "counted": counted,
        "generator": generator.get_state(),
        "coin": host_generator.get_state(),
        "groups": [{"name": g.name, "num_units": g.num_units, **g.state.state_dict()} for g in groups],
    }


def load_state(
    state_dict: dict[str, Any],
    groups: Sequence[UnitGroup],
    generator: torch.Generator,
    host_generator: torch.Generator,
) -> tuple[int, int]:
    """Load a checked state into groups and generators -> (updates, counted).

    Raises:
        ValueError: the saved generator is of another device. Nothing is changed.
    """
    before = generator.get_state()
    try:
        generator.set_state(state_dict["generator"].cpu())
        host_generator.set_state(state_dict["coin"].cpu())
    except (RuntimeError, TypeError, AttributeError) as error:
        generator.set_state(before)
        raise ValueError(
            f"the saved generator does not fit this one, on {generator.device}: pass a generator of the device it was "
            "saved on"
        ) from error
    for group, saved in zip(groups, state_dict["groups"], strict=True):
        group.state.load_state_dict(saved)
    return int(state_dict["updates"]), int(state_dict["counted"])


def check_state(state_dict: Any, groups: Sequence[UnitGroup], utility: str) -> None:
    """Raise ValueError for a saved state of another version, measure or architecture."""
    if not isinstance(state_dict, dict) or "version" not in state_dict or "groups" not in state_dict:
        raise ValueError("state_dict is not one of GnT.state_dict(): it has no 'version' and 'groups'")
    if state_dict["version"] != STATE_VERSION:
        raise ValueError(f"state_dict has version {state_dict['version']!r}; this gnt reads version {STATE_VERSION}")
    own = {"utility", "updates", "counted", "generator", "coin"}
    entries = {"name", "num_units", *groups[0].state.state_dict()}
    missing = sorted(own - set(state_dict)) or sorted({k for e in state_dict["groups"] for k in entries - set(e)})
    if missing:
        raise ValueError(f"state_dict is incomplete: it lacks {', '.join(missing)}")
    if state_dict["utility"] != utility:
        raise ValueError(
            f"state_dict holds averages of utility {state_dict['utility']!r}, this engine measures {utility!r}"
        )
    expected = [(group.name, group.num_units) for group in groups]
    saved = [(entry.get("name"), entry.get("num_units")) for entry in state_dict["groups"]]
    if expected != saved:
        raise ValueError(
            f"state_dict is of another architecture: it holds groups (name, units) {saved}, this engine has {expected}"
        )
    for group, entry in zip(groups, state_dict["groups"], strict=True):
        for name, value in group.state.state_dict().items():
            if isinstance(value, Tensor) and entry[name].shape != value.shape:
                raise ValueError(
                    f"state_dict has {name!r} of shape {tuple(entry[name].shape)} for group {group.name!r}"
                )
