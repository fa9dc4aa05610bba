"""The saved state of an engine: created, checked, and loaded. All is checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gnt._utils.state_dicts import check_entries, check_version, counter, equal_to, random_state, shown, text
from gnt.initialization import SlotInit, loaded_inits, saved_inits
from gnt.units import UnitGroup

STATE_VERSION = 1


class CheckedState(NamedTuple):
    """A saved state that was checked, in the form in which it is loaded."""

    updates: int
    counted: int
    generator: Tensor
    coin: Tensor
    groups: list[dict[str, Any]]
    slot_inits: list[list[SlotInit]]


def engine_state(
    groups: Sequence[UnitGroup],
    utility: str,
    updates: int,
    counted: int,
    generator: torch.Generator,
    host_generator: torch.Generator,
    slot_inits: Sequence[Sequence[SlotInit]],
    measure_every: int,
) -> dict[str, Any]:
    """The state of an engine, in tensors and plain values."""
    return {
        "version": STATE_VERSION,
        "utility": utility,
        "measure_every": measure_every,
        "updates": updates,
        "counted": counted,
        "generator": generator.get_state(),
        "coin": host_generator.get_state(),
        "inits": saved_inits(slot_inits),
        "groups": [{"name": g.name, "num_units": g.num_units, **g.state.state_dict()} for g in groups],
    }


def check_state(
    state_dict: Any,
    groups: Sequence[UnitGroup],
    utility: str,
    generator: torch.Generator,
    host_generator: torch.Generator,
    slot_inits: list[list[SlotInit]],
    measure_every: int,
    *,
    load_weights: bool,
    load_biases: bool,
) -> CheckedState:
    """Check a saved state for these groups and generators; changes nothing, reads the device.

    Args:
        state_dict: the saved state.
        groups, utility, generator, host_generator, slot_inits, measure_every: those of the engine.
        load_weights, load_biases: take the saved initial distributions of weights, and of biases, in place of those in
            ``slot_inits``; states of earlier versions have none.

    Raises:
        ValueError: a state of another version, measure or architecture, or an entry that no engine could have.
    """
    if not isinstance(state_dict, dict) or "version" not in state_dict or "groups" not in state_dict:
        raise ValueError("state_dict is not one of GnT.state_dict(): it has no 'version' and 'groups'")
    check_version(state_dict["version"], STATE_VERSION)
    own = check_entries(
        {"measure_every": 1, **state_dict},  # states of earlier versions have none
        {
            "utility": equal_to(
                utility, lambda saved: f"state_dict holds averages of utility {saved}, this engine measures {utility!r}"
            ),
            "measure_every": equal_to(
                measure_every,
                lambda saved: (
                    f"state_dict holds averages over every {saved}. update (measure_every), this engine "
                    f"measures every {measure_every}."
                ),
            ),
            "updates": counter(),
            "counted": counter(),
            "generator": random_state(generator),
            "coin": random_state(host_generator),
        },
    )
    if own["counted"] > own["updates"]:
        raise ValueError(
            f"state_dict holds counted {own['counted']}, the update of the last selection, which must be <= its "
            f"updates, {own['updates']}"
        )
    saved_groups = state_dict["groups"]
    if not isinstance(saved_groups, (list, tuple)) or not all(isinstance(entry, dict) for entry in saved_groups):
        raise ValueError(f"state_dict has 'groups' {shown(saved_groups)}, which must be a list of dicts")
    expected = [(group.name, group.num_units) for group in groups]
    described = [check_entries(entry, {"name": text, "num_units": counter()}) for entry in saved_groups]
    saved = [(entry["name"], entry["num_units"]) for entry in described]
    if expected != saved:
        raise ValueError(
            f"state_dict is of another architecture: it holds groups (name, units) {saved}, this engine has {expected}"
        )
    states = [
        group.state.checked_state(entry, f" for group {group.name!r}", own["updates"])
        for group, entry in zip(groups, saved_groups, strict=True)
    ]
    if "inits" in state_dict:
        slot_inits = loaded_inits(state_dict["inits"], slot_inits, weights=load_weights, biases=load_biases)
    return CheckedState(own["updates"], own["counted"], own["generator"], own["coin"], states, slot_inits)


def load_units(state: CheckedState, groups: Sequence[UnitGroup]) -> None:
    """Load the units' states."""
    for group, saved in zip(groups, state.groups, strict=True):
        group.state.load_checked(saved)


def load_generators(state: CheckedState, generator: torch.Generator, host_generator: torch.Generator) -> None:
    """Load the generators' states. On the CPU both are one generator, whose state is "generator"."""
    host_generator.set_state(state.coin)
    generator.set_state(state.generator)
