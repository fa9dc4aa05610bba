"""An engine's saved state: everything needed to go on bit by bit, checked before it is taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gnt.units import UnitGroup

if TYPE_CHECKING:
    from gnt.replacement.engine import GnT

STATE_VERSION = 1


def save(engine: GnT) -> dict[str, Any]:
    """The engine's state, in tensors and plain values."""
    return {
        "version": STATE_VERSION,
        "utility": engine.utility,
        "updates": engine.updates,
        "counted": engine.counted,
        "generator": engine.generator.get_state(),
        "coin": engine.host_generator.get_state(),
        "groups": [{"name": g.name, "num_units": g.num_units, **g.state.state_dict()} for g in engine.groups],
    }


def load(engine: GnT, state_dict: dict[str, Any]) -> None:
    """Take back what `save` gave; ValueError, and nothing changed, where it does not fit."""
    check(state_dict, engine.groups, engine.utility)
    before = engine.generator.get_state()
    try:
        engine.generator.set_state(state_dict["generator"].cpu())
        engine.host_generator.set_state(state_dict["coin"].cpu())
    except (RuntimeError, TypeError, AttributeError) as error:
        engine.generator.set_state(before)
        raise ValueError(
            f"the saved generator does not fit this one, on {engine.generator.device}: pass a generator of the device "
            "it was saved on"
        ) from error
    engine.updates, engine.counted = int(state_dict["updates"]), int(state_dict["counted"])
    engine.selected = []
    for group, saved in zip(engine.groups, state_dict["groups"], strict=True):
        group.state.load_state_dict(saved)


def check(state_dict: Any, groups: Sequence[UnitGroup], utility: str) -> None:
    """Refuse a saved state of another version, measure or architecture."""
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
    mine = [(group.name, group.num_units) for group in groups]
    theirs = [(entry.get("name"), entry.get("num_units")) for entry in state_dict["groups"]]
    if mine != theirs:
        raise ValueError(
            f"state_dict is of another architecture: it holds groups (name, units) {theirs}, this engine has {mine}"
        )
    for group, entry in zip(groups, state_dict["groups"], strict=True):
        for name, mine in group.state.state_dict().items():
            if isinstance(mine, Tensor) and entry[name].shape != mine.shape:
                raise ValueError(
                    f"state_dict has {name!r} of shape {tuple(entry[name].shape)} for group {group.name!r}"
                )
