"""Errors of `walk` and `trace`."""

from __future__ import annotations


class WalkError(ValueError):
    """A list of layers cannot be turned into unit groups; the message names the layer and the reason."""


class TraceError(WalkError):
    """A model cannot be traced, or no unit in it can be replaced; the message gives the place and the reason."""
