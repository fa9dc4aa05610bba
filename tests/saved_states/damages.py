"""Damages to saved states: each entry in turn is replaced by values that no object would save."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Path = tuple[Any, ...]
_MISSING = object()
_NAN, _INF = float("nan"), float("inf")


def entries(state: Any, at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every entry of nested dicts and lists, containers included, with its path."""
    pairs = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    for key, value in pairs:
        yield (*at, key), value
        yield from entries(value, (*at, key))


def damaged(state: Any, path: Path, value: Any) -> Any:
    """A copy of the state with another value at the path, or without it."""
    result = copy.deepcopy(state)
    container = result
    for key in path[:-1]:
        container = container[key]
    if value is _MISSING:
        del container[path[-1]]
    else:
        container[path[-1]] = value
    return result


def damages_to(value: Any) -> dict[str, Any]:
    """Values to put in place of ``value``, by name."""
    values = {"None": None, "text": "3", "a list": [[]], "a dict": {"a": 1}, "missing": _MISSING, "an object": object()}
    if isinstance(value, dict):
        return {**values, "an extra entry": {**value, "extra": 1}, "empty": {}}
    if isinstance(value, list):
        return {**values, "longer": [*value, *value[:1]], "shorter": value[:-1], "reversed": value[::-1]}
    if isinstance(value, Tensor):
        return {**values, **_damaged_tensors(value)}
    if isinstance(value, (int, float)):
        numbers = {"NaN": _NAN, "inf": _INF, "-inf": -_INF, "complex": 1j, "bool": True, "negative": -1}
        numbers |= {"huge": 2**63, "very huge": 10**5000, "huge float": 1e300}
        if isinstance(value, int):
            numbers["fractional"] = value + 0.5
        return {**values, **numbers, "a tensor": torch.tensor(-1.5)}
    return values


def _damaged_tensors(value: Tensor) -> dict[str, Any]:
    result: dict[str, Any] = {
        "on meta": value.to("meta"),
        "one more dimension": value[None],
        "cut": value[..., :-1] if value.ndim else torch.empty(0),
        "bool": value.bool(),
        "longer": torch.cat([value.flatten(), value.flatten()]),
        "a list of numbers": value.tolist(),
        "complex": value.to(torch.complex64),
        "sparse": (value if value.ndim else value[None]).float().to_sparse(),
    }
    if value.is_floating_point():
        filled = {"NaN": _NAN, "inf": _INF, "-inf": -_INF}
        result |= {name: _with_first(value, number) for name, number in filled.items()}
        result |= {"huge": _with_first(value.double(), 1e300), "integers": value.long()}
    elif value.dtype == torch.uint8:
        result |= {"zeros": torch.zeros_like(value), "100 bytes": value.flatten()[:100], "integers": value.long()}
    else:
        result |= {"negative": _with_first(value, -1), "huge": _with_first(value, 2**62), "fractional": value + 0.5}
    return result


def _with_first(value: Tensor, number: float) -> Tensor:
    """A copy of the tensor with another first element."""
    result = value.clone()
    result.view(-1)[0] = number if value.is_floating_point() else min(number, torch.iinfo(value.dtype).max)
    return result
