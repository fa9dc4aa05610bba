"""The saved state of a `HAT`, checked before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnt._utils.state_dicts import Entry, Kind, check_saved_state, counter, equal_to, sequence, tensor
from gnt.protection._saved_state import is_task_id
from gnt.protection._unit_layout import UnitLayout

STATE_VERSION = 1


def checked_state(state: Any, layout: UnitLayout, settings: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
    """Check a saved state, and return its entries.

    Args:
        state: the value to check.
        layout: the units.
        settings: the settings that must be equal.
        like: a tensor on the device of the masks.

    Raises:
        ValueError: not such a state, or of another network or other settings.
    """
    tasks = state.get("tasks") if isinstance(state, dict) else None
    number = len(tasks) if isinstance(tasks, list) else 0
    groups = [[group.name, group.num_units] for group in layout.groups]
    kinds: dict[str, Kind] = {
        "groups": equal_to(groups, lambda got: f"state_dict is of another network: its groups are {got}, not {groups}"),
        "settings": equal_to(
            dict(settings), lambda got: f"state_dict was saved with the settings {got}; those here are {dict(settings)}"
        ),
        "tasks": _task_ids,
        "open": _open_task,
        "step": counter(),
        "steps_per_epoch": counter(),
        "selected": _at_most_one(number),
        "masks": tensor(like.new_zeros(number, layout.total, dtype=torch.uint8), 0, 1),
        "earlier": _names,
        "current": _names,
        "initial_buffers": _tensors,
        "task_buffers": _list_of_tensors,
        "live_buffers": _list_of_tensors,
        "generator": _generators,
        "extra": _dict,
    }
    checked = check_saved_state(state, "HAT.state_dict()", kinds, STATE_VERSION)
    _check_together(checked, settings["norms"] == "per_task")
    return checked


def _check_together(checked: Mapping[str, Any], per_task: bool) -> None:
    """Raise ValueError for entries that are valid alone but not together."""
    tasks, is_open = checked["tasks"], bool(checked["open"])
    if is_open and checked["open"][0] in tasks:
        raise Entry("open").wrong_value(checked["open"], f"an id that is not among the ended tasks {tasks}")
    if is_open and not checked["steps_per_epoch"]:
        raise Entry("steps_per_epoch").wrong_value(0, "an integer >= 1 while a task is open")
    if checked["selected"] and not checked["selected"][0] < len(tasks) + is_open:
        raise Entry("selected").wrong_value(checked["selected"], f"a number below {len(tasks) + is_open}")
    if len(checked["task_buffers"]) != (len(tasks) if per_task else 0):
        raise Entry("task_buffers").wrong_value(len(checked["task_buffers"]), "one dict for each ended task")
    if len(checked["live_buffers"]) > 1:
        raise Entry("live_buffers").wrong_value(len(checked["live_buffers"]), "one dict at most")


def _task_ids(entry: Entry, value: Any) -> list[Any]:
    if not isinstance(value, list) or not all(map(is_task_id, value)) or len(set(value)) < len(value):
        raise entry.wrong_value(value, "a list of different ids, integers or strings")
    return list(value)


def _open_task(entry: Entry, value: Any) -> list[Any]:
    valid = isinstance(value, list) and (not value or (len(value) == 2 and is_task_id(value[0])))
    if not valid or (value and not isinstance(value[1], bool)):
        raise entry.wrong_value(value, "[] or [id, whether penalty was used]")
    return list(value)


def _at_most_one(most: int) -> Kind:
    def check(entry: Entry, value: Any) -> list[int]:
        checked = sequence([counter(most)] * (1 if value else 0), "[] or [the number of a task]")
        return list(checked(entry, value))

    return check


def _names(entry: Entry, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise entry.wrong_value(value, "a list of names")
    return list(value)


def _dict(entry: Entry, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise entry.wrong_value(value, "a dict")
    return value


def _tensors(entry: Entry, value: Any) -> dict[str, Tensor]:
    if not isinstance(value, dict) or not all(isinstance(each, Tensor) for each in value.values()):
        raise entry.wrong_value(value, "a dict of tensors")
    return {name: each.detach().clone() for name, each in value.items()}


def _list_of_tensors(entry: Entry, value: Any) -> list[dict[str, Tensor]]:
    if not isinstance(value, list):
        raise entry.wrong_value(value, "a list of dicts of tensors")
    return [_tensors(entry, each) for each in value]


def _generators(entry: Entry, value: Any) -> list[Tensor]:
    if not isinstance(value, list) or not all(isinstance(each, Tensor) for each in value):
        raise entry.wrong_value(value, "[] or [the state of a generator]")
    return list(value)
