"""The entries of a saved state of `PackNet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gnt._utils.state_dicts import Entry, Kind, equal_to, sequence, tensor
from gnt.protection._packed_parameter import PackedParameter

MOST_TASKS = 255  # owners are stored in one byte


def saved_kinds(parameters: Sequence[PackedParameter], owners: int) -> dict[str, Kind]:
    """The kinds of the entries for these parameters; ``owners`` is the largest number of an owner."""
    names = [each.name for each in parameters]
    flags = sequence([_flag] * len(names), f"{len(names)} values True or False")
    return {
        "names": equal_to(names, lambda got: f"state_dict is of another network: it has parameters {got}"),
        "tasks": _task_ids,
        "open": _open_task,
        "owners": sequence([tensor(each.owner, 0, owners) for each in parameters], "owners for each parameter"),
        "held": sequence([tensor(each.held) for each in parameters], "held values for each parameter"),
        "used": flags,
        "ran": flags,
    }


def number_of_owners(state_dict: Any) -> int:
    """The number of tasks that own weights in a saved state; any number if it is no such state."""
    tasks = state_dict.get("tasks") if isinstance(state_dict, dict) else None
    return len(tasks) + bool(state_dict.get("open")) if isinstance(tasks, list) else MOST_TASKS


def is_task_id(value: Any) -> bool:
    """True for integers and strings."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _flag(entry: Entry, value: Any) -> bool:
    if not isinstance(value, bool):
        raise entry.wrong_value(value, "True or False")
    return value


def _task_ids(entry: Entry, value: Any) -> list[Any]:
    valid = isinstance(value, list) and all(map(is_task_id, value)) and len(value) <= MOST_TASKS
    if not valid or len(set(value)) < len(value):
        raise entry.wrong_value(value, "a list of different ids, integers or strings")
    return list(value)


def _open_task(entry: Entry, value: Any) -> list[Any]:
    empty = isinstance(value, list) and not value
    if not empty and not (
        isinstance(value, list) and len(value) == 2 and is_task_id(value[0]) and isinstance(value[1], bool)
    ):
        raise entry.wrong_value(value, "[] or [id, pruned]")
    return list(value)
