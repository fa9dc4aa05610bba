"""Settings of `HAT` that are changed later: checked as at construction."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch

from gnt._utils.known_attributes import known_attributes
from gnt.protection._hat_settings import HATSettings

# read whenever they are needed; the others that can be changed are read when a task begins
AT_ANY_TIME = ("idle", "protect_above")
BETWEEN_TASKS = (
    "sparsity",
    "sparsity_mode",
    "embedding_clamp",
    "compensation",
    "gradient_clip",
    "uncovered",
    "min_free",
)
FIXED = {
    "s_max": "the masks of earlier tasks were learned with it",
    "norms": "the running statistics of earlier tasks are kept by it",
    "protection": "it belongs to the method",
}

Kind = TypeVar("Kind", bound=type[Any])


def check_generator(generator: Any) -> None:
    """Raise TypeError for anything but a generator or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r:.60}")


class SettingOfHAT:
    """Descriptor of a setting: reads it from ``hat.settings``, and checks a new value with the others."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, hat: Any, kind: Any = None) -> Any:
        return self if hat is None else getattr(hat.settings, self._name)

    def __set__(self, hat: Any, value: Any) -> None:
        hat.change_setting(self._name, value)


def settings_of_hat(kind: Kind) -> Kind:
    """Decorate the class `HAT`, so that its settings are attributes, and names that are nearly the same are refused."""
    for name in (*AT_ANY_TIME, *BETWEEN_TASKS, *FIXED):
        setattr(kind, name, SettingOfHAT(name))
    return known_attributes(others_allowed=True)(kind)


def changed_settings(settings: HATSettings, name: str, value: Any, *, open_task: Any) -> HATSettings:
    """The settings with another value of one.

    Args:
        settings: the present ones.
        name, value: the setting and its new value.
        open_task: the task that is trained; None between tasks.

    Raises:
        AttributeError: a setting that cannot be changed.
        RuntimeError: a setting that can be changed between tasks only, in a task.
        TypeError, ValueError: as `HAT`.
    """
    if name in FIXED:
        raise AttributeError(f"{name} of HAT cannot be changed, got {value!r}: {FIXED[name]}. Build a new one")
    values = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
    checked = HATSettings.checked(**{**values, name: value})
    if open_task is not None and name not in AT_ANY_TIME and getattr(checked, name) != values[name]:
        raise RuntimeError(
            f"{name} cannot be changed to {value!r} while task {open_task!r} is open, whose gates were made with "
            f"{values[name]!r}: assign it between end() and begin()"
        )
    return checked
