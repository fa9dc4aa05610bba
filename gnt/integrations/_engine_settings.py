"""Settings of an engine among the arguments of an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnt.replacement import ENGINE_SETTINGS, EngineSettings


def engine_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `gnt.GnT` among all arguments of a function, which are its ``locals()``."""
    return {name: arguments[name] for name in ENGINE_SETTINGS}


def given_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from the defaults of `gnt.GnT`, after a check of all.

    Raises:
        TypeError, ValueError: settings that are not allowed.
    """
    EngineSettings(**settings)
    return {name: value for name, value in settings.items() if value != getattr(EngineSettings, name, None)}


def check_follow(follow: Any) -> None:
    """Raise TypeError for anything but a list of objects, as `gnt.GnT` does, which is built later."""
    if not isinstance(follow, (list, tuple)):
        raise TypeError(f"follow must be a list of objects, got {type(follow).__name__}")
