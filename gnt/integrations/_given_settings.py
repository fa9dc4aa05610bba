"""Settings of an engine that differ from its defaults."""

from __future__ import annotations

from typing import Any

from gnt.replacement import EngineSettings


def given_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that differ from the defaults of `gnt.GnT`, after a check of all.

    Raises:
        TypeError, ValueError: settings that are not allowed.
    """
    EngineSettings(**settings)
    return {name: value for name, value in settings.items() if value != getattr(EngineSettings, name, None)}
