"""Checks of saved states, made before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def check_saved_state(state_dict: Any, source: str, keys: Iterable[str], version: int) -> None:
    """Raise ValueError unless ``state_dict`` holds "version" and ``keys``, nothing else, and has this version.

    Args:
        state_dict: the value to check.
        source: what returns such states, for the error message: ``"L2Init.state_dict()"``.
        keys: the required keys besides "version".
        version: the version that can be loaded.
    """
    required = {"version", *keys}
    if not isinstance(state_dict, dict) or set(state_dict) != required:
        got = ", ".join(sorted(map(str, state_dict))) if isinstance(state_dict, dict) else type(state_dict).__name__
        raise ValueError(f"state_dict is not one of {source}: it must hold {', '.join(sorted(required))}, got {got}")
    check_version(state_dict, version)


def check_version(state_dict: dict[str, Any], version: int) -> None:
    """Raise ValueError for a saved state of another version."""
    if state_dict["version"] != version:
        raise ValueError(f"state_dict has version {state_dict['version']!r}; this gnt reads version {version}")


def checked_steps(state_dict: dict[str, Any]) -> int:
    """Return the saved number of steps, or raise ValueError if it is not an integer >= 0."""
    steps = state_dict["steps"]
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise ValueError(f"state_dict holds steps {steps!r}, which must be an integer >= 0")
    return steps


def check_saved_tensors(saved: Any, names: Iterable[str], parameters: Iterable[Tensor]) -> None:
    """Raise ValueError unless ``saved`` holds one tensor for each parameter, of the same shape."""
    shapes = [(name, tuple(parameter.shape)) for name, parameter in zip(names, parameters, strict=True)]
    if not isinstance(saved, (list, tuple)) or len(saved) != len(shapes):
        got = f"{len(saved)} tensors" if isinstance(saved, (list, tuple)) else type(saved).__name__
        raise ValueError(f"state_dict must hold {len(shapes)} tensors, one for each parameter, got {got}")
    for (name, shape), tensor in zip(shapes, saved, strict=True):
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            got = str(tuple(tensor.shape)) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"state_dict is of another network: parameter {name} has shape {shape}, got {got}")
