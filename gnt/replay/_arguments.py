"""Checks of arguments, and of saved tasks, that several methods of replay have."""

from __future__ import annotations

from typing import Any

from gnt._utils.state_dicts import Entry, counter
from gnt._utils.validation import check_positive
from gnt.replay.buffer import ReplayBuffer


def checked_buffer(buffer: Any) -> ReplayBuffer:
    """Return ``buffer``, or raise TypeError if it is not a `ReplayBuffer`."""
    if not isinstance(buffer, ReplayBuffer):
        raise TypeError(f"buffer must be a gnt.ReplayBuffer, got {type(buffer).__name__}")
    return buffer


def checked_batch_size(batch_size: Any) -> int | None:
    """Return ``batch_size`` as an integer or None, or raise ValueError."""
    if batch_size is None:
        return None
    check_positive(batch_size=batch_size)
    return int(batch_size)


def batch_size_setting(name: str, value: Any) -> int | None:
    """`checked_batch_size` as the rule of a setting."""
    return checked_batch_size(value)


def checked_task(task: Any) -> int | None:
    """Return ``task``, or raise TypeError if it is neither an integer nor None."""
    if task is not None and (isinstance(task, bool) or not isinstance(task, int)):
        raise TypeError(f"task must be an integer or None, got {task!r:.60}")
    return task


def saved_task(entry: Entry, value: Any) -> int | None:
    """A task in a saved state: an integer or None."""
    try:
        return checked_task(value)
    except TypeError:
        raise entry.wrong_value(value, "an integer or None") from None


def saved_number(entry: Entry, value: Any) -> int | None:
    """A number in a saved state: an integer >= 0 or None."""
    return None if value is None else int(counter()(entry, value))
